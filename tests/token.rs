//! `hi token`: tokens from the shell, and why a server would refuse one.

mod support;

use support::internal::{File, hi};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_token_is_made_and_read_back() {
    let key = File::new(&format!("{SECRET}\n"));
    let make =
        ["token", "--jwt-key", key.path(), "--sub", "42", "--name", "ada", "--room", "tea*", "--room", "raw:x=listen"];
    let (code, token, stderr) = hi(&[&make[..], &["--ttl", "1h", "--iss", "app", "--aud", "hi"]].concat(), "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (code, told, stderr) = hi(&["token", "check", "--jwt-key", key.path(), "--jwt-audience", "hi"], &token);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(told.contains("user   ada (sub \"42\")") && told.contains("good for 60 min"), "{told}");
    assert!(told.contains("tea*=join,pub") && told.contains("raw:x=listen"), "{told}");
    for (args, why) in [
        (&["--jwt-audience", "x"][..], "token_audience: The token is not for this server: its aud is \"hi\"."),
        (&["--jwt-issuer", "x"], "token_issuer: "),
    ] {
        let (code, stdout, told) = hi(&[&["token", "check", token.trim(), "--jwt-key", key.path()], args].concat(), "");
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(told.starts_with(why) && !told.contains(token.trim()), "{told}");
    }
    let other = File::new(&SECRET.to_uppercase());
    let (code, _, told) = hi(&["token", "check", token.trim(), "--jwt-key", other.path()], "");
    assert!(code == 1 && told.starts_with("token_bad_signature: ") && told.contains("keys here: HS256"), "{told}");
}

#[test]
fn a_private_key_signs_and_its_public_half_checks() {
    let private = File::new(include_str!("support/rsa.pem"));
    let make = ["token", "--jwt-key", private.path(), "--sub", "ada", "--kid", "a"];
    let (code, token, stderr) = hi(&make, "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    // The public half comes from another program.
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["pkey", "-pubout", "-in", private.path()]);
    let public = File::new(std::str::from_utf8(&support::run(openssl).stdout).unwrap());
    let (code, told, stderr) = hi(&["token", "check", "--jwt-key", public.path()], &token);
    assert_eq!((code, stderr.as_str()), (0, ""), "{told}");
    assert!(told.contains("rooms  *=join,pub"), "{told}");
    let (code, _, told) = hi(&["token", "check", "--jwt-key", private.path()], &token);
    assert!(code == 2 && told.contains("has a private key"), "{told}");
    let (code, _, told) = hi(&["token", "--jwt-key", public.path(), "--sub", "ada"], "");
    assert!(code == 2 && told.contains("can only check tokens"), "{told}");
}

#[test]
fn what_a_server_would_refuse_is_not_made() {
    let (key, short) = (File::new(SECRET), File::new("short"));
    for (args, why) in [
        (&["--sub", "hi"][..], "no name for the chat"),
        (&["--sub", "42", "--name", "~ada"], "marks guests"),
        (&["--sub", "ada", "--room", "tea=fly"], "join, pub and listen"),
        (&["--sub", "ada", "--room", "a*b"], "at its end"),
        (&["--name", "ada"], "--sub"),
    ] {
        let (code, stdout, told) = hi(&[&["token", "--jwt-key", key.path()], args].concat(), "");
        assert_eq!((code, stdout.as_str()), (2, ""), "{told}");
        assert!(told.contains(why), "{told}");
    }
    for (path, why) in [(short.path(), "5 bytes"), ("/nowhere", "can't read the key in /nowhere")] {
        let (code, _, told) = hi(&["token", "--jwt-key", path, "--sub", "ada"], "");
        assert!(code == 2 && told.contains(why) && !told.contains("short\n"), "{told}");
    }
}
