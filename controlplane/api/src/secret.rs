//! The cluster's secret: what a process shows to be let in, and what it demands of those it talks to.
//!
//! One file, the same on every machine of the cluster.

use hmac::digest::CtOutput;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Shorter ones could be guessed. 32 random bytes, in hex or base64, are a good secret.
const SECRET_BYTES_MIN: usize = 32;
const SECRET_BYTES_MAX: usize = 4096;

type HmacSha256 = Hmac<Sha256>;
pub(crate) type Proof = CtOutput<HmacSha256>;

/// Cheap to clone, never printed.
#[derive(Clone, Default)]
pub struct Secret {
    /// `None` without a secret.
    key: Option<Arc<[u8]>>,
}

impl Secret {
    pub fn none() -> Self {
        Secret { key: None }
    }

    /// The secret itself, as a file would hold it.
    pub fn of(key: &[u8]) -> Self {
        Secret {
            key: Some(key.into()),
        }
    }

    /// Reads the file; `None` gives a process without a secret. The error is one line that names the file.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Secret::none());
        };
        let shown = path.display();
        let failed = |error: io::Error| format!("cannot read the secret file {shown}: {error}");
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "others than its owner may use the secret file {shown} (mode {:o}): chmod 600 {shown}",
                mode & 0o777
            ));
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let key = bytes.trim_ascii();
        match key.len() {
            SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(Secret::of(key)),
            length => Err(format!(
                "the secret file {shown} holds {length} bytes: a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}"
            )),
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        self.key.is_some()
    }

    /// Proves that whoever made this knows the secret and means these parts, in this order, each of known length.
    pub(crate) fn prove(&self, parts: &[&[u8]]) -> Proof {
        let key = self.key.as_deref().unwrap_or_default();
        let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.key {
            Some(_) => "Secret(..)",
            None => "no secret",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(name: &str, text: &[u8], mode: u32) -> std::path::PathBuf {
        let path =
            std::env::temp_dir().join(format!("millrace-secret-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_is_long_and_its_owners_alone() {
        let good = file("good", b"0123456789abcdef0123456789abcdef\n", 0o600);
        let secret = Secret::load(Some(&good)).unwrap();
        assert!(!format!("{secret:?}").contains("0123"));
        let cases = [
            (file("open", &[7; 64], 0o640), "chmod 600"),
            (file("short", b"short\n", 0o600), "holds 5 bytes"),
            (
                file("long", &[7; SECRET_BYTES_MAX + 1], 0o600),
                "holds 4097",
            ),
            ("/nowhere/at-all".into(), "cannot read"),
        ];
        for (path, reason) in cases {
            let error = Secret::load(Some(&path)).unwrap_err();
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
            let _ = fs::remove_file(path);
        }
        fs::remove_file(good).unwrap();
    }
}
