//! The bounds of tokens, keys and rights.

use std::time::Duration;

/// Bytes of the longest token that is read. Heads may have four times as many.
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;
/// Bytes of the shortest secret that signs tokens (RFC 7518 section 3.2).
pub(crate) const SECRET_BYTES_MIN: usize = 32;
/// Bytes of the smallest RSA key: 2048 bits.
pub(crate) const RSA_KEY_BYTES_MIN: usize = 256;
/// Bytes of the largest file, or answer, with keys.
pub(crate) const KEY_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Time between two fetches of `--jwks URL`.
#[cfg(feature = "doctor")]
pub(crate) const KEY_FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// The same, after one that failed.
#[cfg(feature = "doctor")]
pub(crate) const KEY_FETCH_RETRY: Duration = Duration::from_secs(2);
/// The same, of two because a token names a key that is not there.
#[cfg(feature = "doctor")]
pub(crate) const KEY_FETCH_PAUSE: Duration = Duration::from_secs(10);
/// How long one fetch may take.
#[cfg(feature = "doctor")]
pub(crate) const KEY_FETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// Keys in use at once.
pub(crate) const KEYS_MAX: usize = 64;
/// Keys without an id in use at once: a token that names none of them is checked with each.
pub(crate) const KEYS_WITHOUT_ID_MAX: usize = 4;
/// Characters of a text from a token, such as the id of its key, that are shown.
pub(crate) const TEXT_CHARS_SHOWN: usize = 40;
/// Rules about rooms in one token, or in one option.
pub(crate) const RULES_MAX: usize = 32;
/// Bytes of rules after which a denial leaves out the others.
pub(crate) const RULES_BYTES_SHOWN: usize = 80;
/// Checked tokens that each shard remembers: about a megabyte.
pub(crate) const CACHED_TOKENS_MAX: usize = 4096;
/// A shard checks tokens during one part in this many of its time.
pub(crate) const VERIFICATION_SHARE: u32 = 4;
/// How far ahead of that it may be before handshakes queue: a burst of about fifty tokens.
pub(crate) const VERIFICATION_DEBT_MAX: Duration = Duration::from_millis(16);
/// Units of work that a token on an open connection counts as.
pub(crate) const VERIFICATION_WORK: usize = 100;
