//! The frames that clients send and receive.

/// A client's message: masked, with a zero mask.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).expect("messages are short").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A chat message, or a command.
pub(crate) fn chat(room: &str, message: &str) -> Vec<u8> {
    let text = format!("{{\"From\":\"\",\"Message\":\"{message}\",\"Room\":\"{room}\",\"Meta\":false}}");
    masked(1, text.as_bytes())
}

/// Parser of a server's frames as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    bytes: Vec<u8>,
}

impl Arriving {
    /// Takes received bytes; `on` gets the opcode and payload of each complete frame.
    pub(crate) fn take(&mut self, bytes: &[u8], mut on: impl FnMut(u8, &[u8])) {
        self.bytes.extend_from_slice(bytes);
        let mut read = 0;
        while let Some((head, len)) = head(&self.bytes[read..]) {
            let Some(payload) = self.bytes.get(read + head..read + head + len) else { break };
            on(self.bytes[read] & 0x0f, payload);
            read += head + len;
        }
        self.bytes.drain(..read);
    }
}

/// Length of a frame's head, and of its payload.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, 126, a, b, ..] => Some((4, usize::from(u16::from_be_bytes([a, b])))),
        [_, 127, ..] => bytes.get(2..10).map(|len| (10, u64::from_be_bytes(len.try_into().unwrap()) as usize)),
        [_, len @ 0..=125, ..] => Some((2, usize::from(len))),
        _ => None,
    }
}
