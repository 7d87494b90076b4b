//! Who made an object: ed25519 signatures.
//!
//! A signing key is 32 bytes in hex (its seed); the public key that others trust is printed by
//! `kache signing-key`.

use std::collections::HashMap;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::{Error, Result};

/// Signs what this machine uploads.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// From 64 hex digits.
    pub fn new(seed: &str) -> Result<Signer> {
        let seed =
            bytes(seed.trim()).ok_or_else(|| Error::Settings("a signing key is 64 hex digits".into()))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::Settings("the signing key is not valid".into()))?;
        Ok(Signer(pair))
    }

    /// The public key, in hex.
    pub fn public(&self) -> String {
        self.0.public_key().as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    pub(crate) fn id(&self) -> [u8; 8] {
        id(self.0.public_key().as_ref())
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(statement).as_ref());
        signature
    }
}

/// A new signing key, in hex.
pub fn generate() -> Result<String> {
    let seed: [u8; 32] = ring::rand::generate(&ring::rand::SystemRandom::new())
        .map_err(|_| Error::Local("the system gives no random numbers".into()))?
        .expose();
    Ok(crate::hex(&seed))
}

/// Whose signatures count.
#[derive(Default)]
pub struct Trust {
    keys: HashMap<[u8; 8], [u8; 32]>,
    required: bool,
}

impl Trust {
    pub fn new(keys: &[String], required: bool) -> Result<Trust> {
        let mut known = HashMap::new();
        for key in keys {
            let key = bytes(key.trim())
                .ok_or_else(|| Error::Settings(format!("the trusted key `{key}` is not 64 hex digits")))?;
            known.insert(id(&key), key);
        }
        if required && known.is_empty() {
            return Err(Error::Settings("`require_signed` needs `trusted_keys`".into()));
        }
        Ok(Trust { keys: known, required })
    }

    /// A signature by a trusted key must be right in any case; none at all, or one by a stranger, is good enough
    /// only where signatures are not required.
    pub(crate) fn check(&self, name: &str, statement: &[u8], signed: Option<(&[u8], &[u8])>) -> Result<()> {
        let known = signed.and_then(|(id, signature)| Some((self.keys.get(id)?, signature)));
        match known {
            Some((key, signature)) => UnparsedPublicKey::new(&ED25519, key)
                .verify(statement, signature)
                .map_err(|_| Error::Untrusted { name: name.to_owned() }),
            None if self.required => Err(Error::Untrusted { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

fn id(public: &[u8]) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&blake3::hash(public).as_bytes()[..8]);
    id
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|h| *h.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_from_friends() {
        let (me, stranger) =
            (Signer::new(&generate().unwrap()).unwrap(), Signer::new(&generate().unwrap()).unwrap());
        let (lax, strict) =
            (Trust::new(&[me.public()], false).unwrap(), Trust::new(&[me.public()], true).unwrap());
        let good = me.sign(b"s");
        for trust in [&lax, &strict] {
            assert!(trust.check("n", b"s", Some((&me.id(), &good))).is_ok());
            assert!(trust.check("n", b"other", Some((&me.id(), &good))).is_err());
        }
        let strange = stranger.sign(b"s");
        assert!(lax.check("n", b"s", Some((&stranger.id(), &strange))).is_ok());
        assert!(strict.check("n", b"s", Some((&stranger.id(), &strange))).is_err());
        assert!(strict.check("n", b"s", None).is_err());
        assert!(Trust::new(&[], true).is_err());
        assert!(Signer::new("secret").is_err_and(|e| !e.to_string().contains("secret")));
    }
}
