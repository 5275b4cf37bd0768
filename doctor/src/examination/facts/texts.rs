//! All texts of the facts that come from servers, and may repeat secrets of the address.

use super::{Address, Answer, Carried, Echo, Failure, Handshake, Step};

impl Address {
    /// Changes each text that servers, or errors, have written.
    pub(crate) fn change_texts(&mut self, change: impl Fn(&str) -> String) {
        let Self { address: _, in_dns: _, ttl_seconds: _, tcp, tls, echo, echo_upgrade, handshake, chat, raw, idle } =
            self;
        let mut texts = Vec::new();
        texts.extend(failure(tcp).into_iter().chain(failure(tls)).chain(failure(idle)));
        [echo, echo_upgrade].into_iter().for_each(|step| each_of(step, &mut texts, echo_texts));
        each_of(handshake, &mut texts, handshake_texts);
        [chat, raw].into_iter().for_each(|step| each_of(step, &mut texts, carried_texts));
        texts.into_iter().for_each(|text| *text = change(text));
    }
}

fn each_of<'a, T>(step: &'a mut Step<T>, texts: &mut Vec<&'a mut String>, of: fn(&'a mut T, &mut Vec<&'a mut String>)) {
    match step {
        Step::Skipped => {}
        Step::Done(value) => of(value, texts),
        Step::Failed(Failure { detail, .. }) => texts.push(detail),
    }
}

fn failure<T>(step: &mut Step<T>) -> Option<&mut String> {
    if let Step::Failed(Failure { detail, .. }) = step { Some(detail) } else { None }
}

fn answer_texts<'a>(answer: &'a mut Answer, texts: &mut Vec<&'a mut String>) {
    texts.push(&mut answer.body);
    texts.extend(answer.headers.iter_mut().map(|(_, value)| value));
}

fn echo_texts<'a>(echo: &'a mut Echo, texts: &mut Vec<&'a mut String>) {
    let Echo { path, answer, received, diff } = echo;
    texts.push(path);
    answer_texts(answer, texts);
    if let Some(received) = received {
        texts.push(&mut received.path);
        texts.extend(received.headers.iter_mut().map(|(_, value)| value));
    }
    if let Some(diff) = diff {
        texts.extend(&mut diff.path);
        texts.extend(diff.changed.iter_mut().map(|changed| &mut changed.arrived));
        texts.extend(diff.added.iter_mut().map(|(_, value)| value));
        texts.extend(diff.hops.iter_mut().map(|hop| &mut hop.trace));
    }
}

fn handshake_texts<'a>(handshake: &'a mut Handshake, texts: &mut Vec<&'a mut String>) {
    texts.push(&mut handshake.path);
    answer_texts(&mut handshake.answer, texts);
}

fn carried_texts<'a>(carried: &'a mut Carried, texts: &mut Vec<&'a mut String>) {
    let Carried { path, note, message, ping, large, welcomed: _ } = carried;
    texts.push(path);
    texts.extend(note);
    texts.extend([message, ping, large].into_iter().filter_map(failure));
}
