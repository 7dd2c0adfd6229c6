//! Who is to be scraped: aliases, the keys behind them, and when they expire.

pub mod targets;
pub mod writer;

use std::time::{Duration, Instant};

use dht_prom_transport::PublicKey;
use indexmap::{IndexMap, map::Entry};

use crate::name::{Alias, Label};

/// How long a registration lasts. Clients renew theirs each hour.
pub const EXPIRY: Duration = Duration::from_secs(3 * 60 * 60);

/// Aliases that are kept at most, at about 1 KiB each with their session's idle state aside.
pub const MAX_TARGETS: usize = 20_000;

/// Aliases in the order in which they came, the time handed in by the caller.
#[derive(Debug, Default)]
pub struct Registry {
    entries: IndexMap<Alias, Registration>,
}

/// Where an alias points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The key on which the service serves its metrics.
    pub key: PublicKey,
    /// The host it runs on.
    pub hostname: Label,
    /// What it is.
    pub service: Label,
}

#[derive(Debug)]
struct Registration {
    target: Target,
    expires: Instant,
}

/// What a registration changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing but the expiry.
    Renewed,
    /// The alias is new.
    Added,
    /// Host or service is another.
    Relabelled,
    /// The alias points at another key now.
    Replaced {
        /// The key that it pointed at.
        old: PublicKey,
    },
}

impl Change {
    /// Whether the target list reads differently now.
    pub const fn is_update(&self) -> bool {
        !matches!(self, Self::Renewed)
    }
}

/// [`MAX_TARGETS`] aliases are registered already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bridge holds {MAX_TARGETS} aliases already")]
pub struct Full;

impl Registry {
    /// Points `alias` at `target` until [`EXPIRY`] from `now`.
    ///
    /// # Errors
    /// [`Full`] when the alias is new and there is no room.
    pub fn register(&mut self, now: Instant, alias: Alias, target: Target) -> Result<Change, Full> {
        let full = self.entries.len() >= MAX_TARGETS;
        let expires = now + EXPIRY;
        match self.entries.entry(alias) {
            Entry::Vacant(_) if full => Err(Full),
            Entry::Vacant(vacant) => {
                vacant.insert(Registration { target, expires });
                Ok(Change::Added)
            }
            Entry::Occupied(mut occupied) => {
                let old = occupied.insert(Registration { target, expires }).target;
                let new = &occupied.get().target;
                Ok(if old.key != new.key {
                    Change::Replaced { old: old.key }
                } else if old != *new {
                    Change::Relabelled
                } else {
                    Change::Renewed
                })
            }
        }
    }

    /// Removes and returns what has expired by `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<(Alias, Target)> {
        let mut expired = Vec::new();
        self.entries.retain(|alias, registration| {
            let lives = registration.expires > now;
            if !lives {
                expired.push((alias.clone(), registration.target.clone()));
            }
            lives
        });
        expired
    }

    /// Where `alias` points. Takes the name as it came, since most look-ups are of known aliases.
    pub fn find(&self, alias: &str) -> Option<(&Alias, &Target)> {
        let (_, alias, registration) = self.entries.get_full(alias)?;
        Some((alias, &registration.target))
    }

    /// All aliases, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Alias, &Target)> {
        self.entries.iter().map(|(alias, registration)| (alias, &registration.target))
    }

    /// How many aliases there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(key: u8, hostname: &str) -> Target {
        Target { key: [key; 32].into(), hostname: hostname.into(), service: "svc".into() }
    }

    fn alias(name: &str) -> Alias {
        name.parse().unwrap()
    }

    #[test]
    fn registering_again_moves_the_expiry_only() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        assert_eq!(registry.register(start, alias("a"), target(1, "h")), Ok(Change::Added));
        let later = start + EXPIRY / 2;
        assert_eq!(registry.register(later, alias("a"), target(1, "h")), Ok(Change::Renewed));
        assert_eq!(registry.expire(start + EXPIRY), []);
        assert_eq!(registry.expire(later + EXPIRY), [(alias("a"), target(1, "h"))]);
        assert!(registry.is_empty());
    }

    #[test]
    fn another_host_or_key_is_an_update() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        registry.register(now, alias("a"), target(1, "h")).unwrap();
        let relabelled = registry.register(now, alias("a"), target(1, "i")).unwrap();
        assert_eq!(relabelled, Change::Relabelled);
        let replaced = registry.register(now, alias("a"), target(2, "i")).unwrap();
        assert_eq!(replaced, Change::Replaced { old: [1; 32].into() });
        assert!(relabelled.is_update() && replaced.is_update() && !Change::Renewed.is_update());
        assert_eq!(registry.find("a"), Some((&alias("a"), &target(2, "i"))));
        assert_eq!(registry.find("b"), None);
    }

    #[test]
    fn a_full_registry_takes_renewals_only() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        for n in 0..MAX_TARGETS {
            registry.register(now, alias(&n.to_string()), target(1, "h")).unwrap();
        }
        assert_eq!(registry.register(now, alias("one-more"), target(1, "h")), Err(Full));
        assert_eq!(registry.register(now, alias("7"), target(1, "h")), Ok(Change::Renewed));
        assert_eq!(registry.len(), MAX_TARGETS);
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_the_newest_registrations(
            steps in prop::collection::vec((0..5u8, 0..3u8, 0..120u64), 0..60)
        ) {
            let (mut registry, start) = (Registry::default(), Instant::now());
            let mut model: Vec<(String, u8, Instant)> = Vec::new();
            let mut now = start;
            for (name, key, minutes) in steps {
                now += Duration::from_secs(60 * minutes);
                registry.expire(now);
                model.retain(|(_, _, expires)| *expires > now);
                let name = name.to_string();
                registry.register(now, alias(&name), target(key, "h")).unwrap();
                match model.iter_mut().find(|(other, _, _)| *other == name) {
                    Some(entry) => (entry.1, entry.2) = (key, now + EXPIRY),
                    None => model.push((name, key, now + EXPIRY)),
                }
                let listed: Vec<_> = registry
                    .iter()
                    .map(|(alias, target)| (alias.as_str().to_owned(), target.key))
                    .collect();
                let expected: Vec<_> =
                    model.iter().map(|(name, key, _)| (name.clone(), [*key; 32].into())).collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }
}
