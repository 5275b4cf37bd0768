//! Tokens that have been checked, by their SHA-256: clients that reconnect bring the same token again, and a public key
//! takes eighty microseconds to check it. Pure.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use super::Principal;
use crate::limits::tokens::CACHED_TOKENS_MAX;

type Generation = HashMap<[u8; 32], Arc<Principal>>;

/// Two generations: when the young one is full, the old one is dropped. What is in use moves into the young one.
#[derive(Default)]
pub(super) struct TokenCache {
    young: Generation,
    old: Generation,
}

/// The SHA-256 of a token. Nothing keeps the token itself.
pub(super) fn fingerprint(token: &str) -> [u8; 32] {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl TokenCache {
    pub(super) fn get(&mut self, fingerprint: &[u8; 32]) -> Option<Arc<Principal>> {
        if let Some(found) = self.young.get(fingerprint) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(fingerprint)?;
        self.put(*fingerprint, Arc::clone(&found));
        Some(found)
    }

    pub(super) fn put(&mut self, fingerprint: [u8; 32], principal: Arc<Principal>) {
        if self.young.len() >= CACHED_TOKENS_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, principal);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests;
