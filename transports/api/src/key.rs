//! 32-byte keys and their text forms.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, HEXLOWER_PERMISSIVE, Specification};

/// Identifies a peer: the Ed25519 public key it proves to hold when a session is set up.
///
/// Prints as 52 characters of z-base-32, the form that HyperDHT tools print. Parses that form, 64
/// hexadecimal digits, and either of them behind `pear://` (see [`decode_key`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key made of these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters of the printed form: enough to tell peers apart in a log line.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = Key32Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode_key(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&z_base_32().encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The text is not a 32-byte key in any accepted form. It does not repeat the text, which may be a
/// secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a 32-byte key: expected 64 hexadecimal digits or 52 characters of z-base-32")]
pub struct Key32Error;

/// Reads 32 bytes (a public key, a shared secret, a seed) from any form that `hypercore-id-encoding`
/// 1.3 reads: 64 hexadecimal digits, 52 characters of z-base-32, or one of them behind `pear://` and
/// before a path.
///
/// # Errors
/// [`Key32Error`] for anything else.
pub fn decode_key(text: &str) -> Result<[u8; 32], Key32Error> {
    let text = match text.strip_prefix("pear://") {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => text,
    };
    let bytes = match text.len() {
        HEX_CHARS => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
        Z_BASE_32_CHARS => z_base_32().decode(text.as_bytes()),
        _ => return Err(Key32Error),
    };
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Key32Error)
}

const HEX_CHARS: usize = 64;
const Z_BASE_32_CHARS: usize = 52;

/// z-base-32 as the `z32` 1.1 package writes it: most significant bit first, no padding.
fn z_base_32() -> &'static Encoding {
    static Z_BASE_32: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
        spec.check_trailing_bits = false;
        spec.encoding().expect("a constant alphabet of 32 distinct characters")
    });
    &Z_BASE_32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEVENS: &str = "yhdoqba8yhdoqba8yhdoqba8yhdoqba8yhdoqba8yhdoqba8yhdo";

    #[test]
    fn reads_every_form_the_reference_reads() {
        for form in [
            "07".repeat(32),
            SEVENS.to_owned(),
            format!("pear://{SEVENS}"),
            format!("pear://{SEVENS}/x"),
        ] {
            assert_eq!(decode_key(&form), Ok([7; 32]), "{form}");
        }
    }

    #[test]
    fn refuses_what_the_reference_refuses() {
        for form in ["", "abc", &"07".repeat(31), &format!("{SEVENS}y"), &"é".repeat(26), "pear://"]
        {
            assert_eq!(decode_key(form), Err(Key32Error), "{form}");
        }
    }

    #[test]
    fn prints_as_the_reference_prints() {
        let count: Vec<u8> = (0..32).collect();
        let key = PublicKey::from_bytes(count.try_into().unwrap());
        assert_eq!(key.to_string(), "yyyoryarywdyqnyjbefoadeqbhebnrounoktcfaadrpbs8y7daxo");
        assert_eq!(
            PublicKey::from([0xff; 32]).to_string(),
            "999999999999999999999999999999999999999999999999999o"
        );
        assert_eq!(key.short(), "yyyoryar");
    }

    proptest! {
        #[test]
        fn printed_keys_parse_back(bytes: [u8; 32]) {
            let key = PublicKey::from(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = decode_key(&text);
        }
    }
}
