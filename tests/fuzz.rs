//! The fuzz targets of `fuzz/`, each with some thousand inputs in every run: mutations of valid ones, from a printed
//! seed. `HI_TEST_FUZZ_INPUTS=1000000 cargo test --release --test fuzz` tries more.

mod support;
#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets are a library of their own, too")]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;

/// Inputs of each target.
const INPUTS: usize = 4000;
/// Mutations of one input at most.
const MUTATIONS_MAX: usize = 6;
/// Longer ones are cut off.
const INPUT_BYTES_MAX: usize = 20_000;

/// Fragments that break JSON parsers.
const JSON_TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"null",
    b"true",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"0.5",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"\"Room\":",
    b"\"room\":",
    b"\"Message\":",
    b"\"Ref\":",
    b"\"ref\":",
    b"\"Since\":",
    b"\"Seq\":",
    b"\"Epoch\":",
    b"\"Op\":\"pub\",",
    b"\"from\":",
    b"\"rooms\":",
    b"\"user\":",
    b"[[[[[[[[",
    b"\xff",
    b"\xc3",
    b"\xe2\x80\xa8",
    b"\x00",
    b" ",
    b"\n",
];
/// Fragments that break parsers of heads.
const HEAD_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b": ",
    b",",
    b"?",
    b"&",
    b"=",
    b"%",
    b"%00",
    b"%0d%0a",
    b"%c3",
    b"#",
    b"/ws",
    b"/raw/",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: close\r\n",
    b"Via: 1.0 a, 1.1 b\r\n",
    b"X-Forwarded-For: ::1, unknown\r\n",
    b"\x00",
    b"\x1b[31m",
    b"\xff",
    b"username=",
    b"room=",
];
/// Parts of tokens, of keys and of rules about rooms.
const TOKEN_TOKENS: &[&[u8]] = &[
    b".",
    b"..",
    b"=",
    b"==",
    b"*",
    b"raw:",
    b"=join",
    b",pub",
    b",",
    b" ",
    b"\n",
    b"eyJhbGciOiJIUzI1NiJ9",
    b"eyJhbGciOiJub25lIn0",
    b"eyJzdWIiOiJhZGEifQ",
    b"-----BEGIN PUBLIC KEY-----\n",
    b"-----END PUBLIC KEY-----\n",
    b"-----BEGIN RSA PUBLIC KEY-----",
    b"PRIVATE KEY-----",
    b"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
    b"\"kty\":\"RSA\"",
    b"\"kty\":\"oct\",",
    b"\"n\":\"AQAB\",\"e\":\"AQAB\"",
    b"\"alg\":\"HS256\",",
    b"{",
    b"}",
    b"[",
    b"[[[[[[[[",
    b"\"",
    b"\xff",
    b"\x00",
    b"\x1b[31m",
];
/// Fragments of PROXY headers, and of lists of addresses.
const ORIGIN_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"UNKNOWN",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21",
    b"\x20",
    b"\x11",
    b"\x00\x0c",
    b"\xff\xff",
    b"10.0.0.1",
    b"203.0.113.7",
    b"::1",
    b"[::1]:80",
    b"::ffff:10.0.0.1",
    b", ",
    b",",
    b"\"",
    b"for=",
    b";",
    b"unknown",
    b":80",
    b" ",
    b"\x00",
    b"\xff",
];
/// Beginnings of frames, and bytes that text must not have.
const FRAME_TOKENS: &[&[u8]] = &[
    b"\x81\x80",
    b"\x01\x81",
    b"\x80\x80",
    b"\x82\xfe",
    b"\x89\x84",
    b"\x8a\x80",
    b"\x88\x82",
    b"\x88\x80",
    b"\xc1",
    b"\xc1\x87",
    b"\x42\xfe",
    b"\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\xed\xc0\x31\x01",
    b"\x83",
    b"\x82\xff",
    b"\xff",
    b"\x00\x00\x00\x00",
    b"\x7f",
    b"\xfe\x00\x7e",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of directory entries is not defined.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One small change.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], tokens: &[&[u8]], random: &mut Rng) {
    let at = random.usize(..=input.len());
    let end = random.usize(at..=input.len().min(at + 40));
    match random.u8(..8) {
        0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
        1 if at < input.len() => input[at] = random.u8(..),
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        4 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again.iter().cycle().take(again.len() * random.usize(1..20)).copied());
        }
        5 => {
            let other = &seeds[random.usize(..seeds.len())];
            input.truncate(at);
            input.extend_from_slice(&other[random.usize(..=other.len())..]);
        }
        _ => {
            let token = tokens[random.usize(..tokens.len())];
            input.splice(at..end.min(at + random.usize(..3)), token.iter().copied());
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn run(target: &str, tokens: &[&[u8]], check: fn(&[u8])) {
    let mut random = support::seeded();
    let seeds = seeds(target);
    assert!(seeds.len() >= 5);
    let inputs = std::env::var("HI_TEST_FUZZ_INPUTS").ok().and_then(|inputs| inputs.parse().ok()).unwrap_or(INPUTS);
    for number in 0..seeds.len() + inputs {
        // All of them unchanged, then mutations.
        let mut input = seeds[number % seeds.len()].clone();
        if number >= seeds.len() {
            (0..random.usize(1..=MUTATIONS_MAX)).for_each(|_| mutate(&mut input, &seeds, tokens, &mut random));
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            eprintln!("input {number} of {target}: b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
    }
}

#[test]
fn messages_of_2017() {
    run("v0", JSON_TOKENS, targets::v0::check);
}

#[test]
fn messages_of_v1() {
    run("v1", JSON_TOKENS, targets::v1::check);
}

#[test]
fn bodies_of_the_internal_port() {
    run("api", JSON_TOKENS, targets::api::check);
}

#[test]
fn streams_of_frames() {
    run("frames", FRAME_TOKENS, targets::frames::check);
}

#[test]
fn tokens_keys_and_rules() {
    run("tokens", TOKEN_TOKENS, targets::tokens::check);
}

#[test]
fn origins_of_connections() {
    run("origins", ORIGIN_TOKENS, targets::origins::check);
}

#[test]
fn request_heads() {
    run("heads", HEAD_TOKENS, targets::heads::check);
}
