//! Names that services give themselves, made fit for files, labels and logs.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The name under which a service is scraped: 1 to 128 of `A-Z a-z 0-9 . _ ~ @ + -`.
///
/// Those characters need no escaping in a URL path, a targets file or a log line. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alias(Arc<str>);

/// The longest alias, in bytes.
pub const MAX_ALIAS_BYTES: usize = 128;

/// A name outside the rule for aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an alias is 1 to {MAX_ALIAS_BYTES} characters of A-Z a-z 0-9 . _ ~ @ + -")]
pub struct AliasError;

impl Alias {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that maps of aliases are asked with the name as it came.
impl Borrow<str> for Alias {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = AliasError;

    fn from_str(name: &str) -> Result<Self, AliasError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@+-".contains(&byte);
        if (1..=MAX_ALIAS_BYTES).contains(&name.len()) && name.bytes().all(fits) {
            Ok(Self(name.into()))
        } else {
            Err(AliasError)
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alias({self})")
    }
}

/// A host or service name as a label value: anything goes in, what comes out is harmless.
///
/// `:` separates the fields of the targets file, and blanks, quotes, slashes, backslashes and control
/// characters trouble files, URLs and logs: each becomes `-`. Empty becomes `unknown`, because the
/// relabel rules need at least one character. Cut at [`MAX_LABEL_BYTES`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Label(Arc<str>);

/// The longest label, in bytes.
pub const MAX_LABEL_BYTES: usize = 255;

impl Label {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Label {
    fn from(name: &str) -> Self {
        if name.is_empty() {
            return Self("unknown".into());
        }
        let mut label = String::new();
        for c in name.chars().map(harmless) {
            if label.len() + c.len_utf8() > MAX_LABEL_BYTES {
                break;
            }
            label.push(c);
        }
        Self(label.into())
    }
}

fn harmless(c: char) -> char {
    let troubles = c.is_whitespace()
        || c.is_control()
        || matches!(c, ':' | '"' | '\'' | '`' | '/' | '\\' | '<' | '>' | '&')
        || is_invisible(c);
    if troubles { '-' } else { c }
}

/// Format characters that reorder or hide the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aliases_keep_to_the_rule() {
        for good in ["a", "dummy", "A.b_c~d@e+f-9", &"x".repeat(128)] {
            assert_eq!(good.parse::<Alias>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "a:b", "ä", "a%2f", "a\n", &"x".repeat(129)] {
            assert_eq!(bad.parse::<Alias>(), Err(AliasError), "{bad}");
        }
    }

    #[test]
    fn labels_are_made_harmless() {
        let label = |name: &str| Label::from(name).to_string();
        assert_eq!(label("host-1"), "host-1");
        assert_eq!(label("a:b:c"), "a-b-c");
        assert_eq!(label("a b\t\"c'\\/\r\n\0"), "a-b--c------");
        assert_eq!(label(""), "unknown");
        assert_eq!(label("zürich"), "zürich");
        assert_eq!(label(&"x".repeat(300)).len(), MAX_LABEL_BYTES);
    }

    proptest! {
        #[test]
        fn labels_are_short_and_stay_what_they_are(name: String) {
            let label = Label::from(name.as_str());
            prop_assert!((1..=MAX_LABEL_BYTES).contains(&label.as_str().len()));
            prop_assert!(!label.as_str().contains([':', ' ', '"', '\\', '/', '\n']));
            prop_assert_eq!(Label::from(label.as_str()), label);
        }
    }
}
