//! Where handshakes arrive: one door per listening identity, one answer per attempt.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use peeroxide_dht::{
    crypto::hash,
    hyperdht::ServerEvent,
    hyperdht_messages::{ERROR_ABORTED, ERROR_TRY_LATER},
    messages::Ipv4Peer,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::handshake::{self, Identity, Offer};

/// The doors of a node, by the DHT target that leads to each. As many as identities that listen.
#[derive(Debug, Clone, Default)]
pub(super) struct Doors(Arc<Mutex<HashMap<[u8; 32], Arc<Door>>>>);

impl Doors {
    /// Opens a door; `false` if there is one for this target already.
    pub(super) fn open(&self, target: [u8; 32], door: Arc<Door>) -> bool {
        let mut doors = self.lock();
        let vacant = !doors.contains_key(&target);
        if vacant {
            doors.insert(target, door);
        }
        vacant
    }

    pub(super) fn close(&self, target: [u8; 32]) {
        self.lock().remove(&target);
    }

    /// Brings an event to its door. An event that leads nowhere is answered with nothing.
    pub(super) fn admit(&self, event: ServerEvent) {
        let ServerEvent::PeerHandshake { msg, peer_address, target, reply_tx, .. } = event else {
            return;
        };
        let door = target.and_then(|target| self.lock().get(&target).cloned());
        let waiter = Waiter { mode: msg.mode, dialler: peer_address, answer: reply_tx };
        match door {
            Some(door) => door.knock(msg.noise, waiter),
            None => waiter.answer(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Door>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The target under which a key is announced and dialled.
pub(super) fn target(public_key: &[u8; 32]) -> [u8; 32] {
    hash(public_key)
}

/// Takes the handshakes for one identity.
#[derive(Debug)]
pub(super) struct Door {
    identity: Arc<Identity>,
    knocks: mpsc::Sender<Knock>,
    attempts: Mutex<HashMap<Vec<u8>, Attempt>>,
}

impl Door {
    pub(super) fn new(identity: Arc<Identity>, knocks: mpsc::Sender<Knock>) -> Self {
        Self { identity, knocks, attempts: Mutex::default() }
    }

    fn knock(self: Arc<Self>, noise: Vec<u8>, waiter: Waiter) {
        if !self.is_first(&noise, waiter) {
            return;
        }
        let Some(offer) = handshake::read(&self.identity, &noise) else {
            tracing::debug!("a handshake makes no sense");
            self.settle(&noise, None);
            // Whoever sends noise must not fill the table that diallers need.
            self.attempts().remove(&noise);
            return;
        };
        let knock = Knock { offer: Some(offer), noise, door: Arc::clone(&self) };
        if let Err(mpsc::error::TrySendError::Full(knock)) = self.knocks.try_send(knock) {
            tracing::debug!("a peer comes while the backlog is full");
            knock.refuse(ERROR_TRY_LATER);
        }
    }

    /// Diallers send the same bytes through several relays, and again when an answer is late. All of
    /// them get the answer that the first gets.
    fn is_first(&self, noise: &[u8], waiter: Waiter) -> bool {
        let now = Instant::now();
        let mut attempts = self.attempts();
        attempts.retain(|_, attempt| now.duration_since(attempt.since) < ATTEMPT_LIFE);
        let full = attempts.len() >= MOST_ATTEMPTS;
        match attempts.get_mut(noise) {
            Some(Attempt { state: State::Settled(reply), .. }) => waiter.answer(reply.clone()),
            Some(Attempt { state: State::Open(waiters), .. }) => {
                if waiters.len() < MOST_WAITERS {
                    waiters.push(waiter);
                }
            }
            None if full || noise.len() > MOST_NOISE_BYTES => waiter.answer(None),
            None => {
                let state = State::Open(vec![waiter]);
                attempts.insert(noise.to_vec(), Attempt { since: now, state });
                return true;
            }
        }
        false
    }

    fn settle(&self, noise: &[u8], reply: Option<Vec<u8>>) {
        let Some(attempt) = self
            .attempts()
            .get_mut(noise)
            .map(|attempt| std::mem::replace(&mut attempt.state, State::Settled(reply.clone())))
        else {
            return;
        };
        if let State::Open(waiters) = attempt {
            waiters.into_iter().for_each(|waiter| waiter.answer(reply.clone()));
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer that waits for our decision. Dropping it refuses the peer.
pub(super) struct Knock {
    /// `None` once the peer has its answer.
    offer: Option<Offer>,
    noise: Vec<u8>,
    door: Arc<Door>,
}

impl Knock {
    pub(super) fn peer(&self) -> Option<[u8; 32]> {
        self.offer.as_ref().map(|offer| offer.keys.remote_public_key)
    }

    /// What the stream needs; the peer has no answer yet.
    pub(super) fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// Tells the peer to come in.
    pub(super) fn accept(mut self) -> Option<Offer> {
        let offer = self.offer.take()?;
        self.door.settle(&self.noise, Some(offer.reply.clone()));
        Some(offer)
    }

    fn refuse(mut self, error: u64) {
        self.send_away(error);
    }

    fn send_away(&mut self, error: u64) {
        if self.offer.take().is_some() {
            let reply = handshake::refusal(&self.door.identity, &self.noise, error);
            self.door.settle(&self.noise, reply);
        }
    }
}

impl std::fmt::Debug for Knock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knock").finish_non_exhaustive()
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.send_away(ERROR_ABORTED);
    }
}

/// One run of the handshake, known by the dialler's first message.
#[derive(Debug)]
struct Attempt {
    since: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Vec<Waiter>),
    Settled(Option<Vec<u8>>),
}

/// One way on which the dialler's message came and on which the answer goes.
#[derive(Debug)]
struct Waiter {
    mode: u64,
    dialler: Option<Ipv4Peer>,
    answer: oneshot::Sender<Option<Vec<u8>>>,
}

impl Waiter {
    fn answer(self, noise: Option<Vec<u8>>) {
        let reply = noise.and_then(|noise| handshake::envelope(noise, self.mode, self.dialler));
        // Nobody waits any more when the node stops.
        let _ = self.answer.send(reply);
    }
}

/// How long an attempt is remembered: diallers of `hyperdht` 6.34 give up after ten seconds.
const ATTEMPT_LIFE: Duration = Duration::from_secs(10);
/// Attempts that a door remembers, each [`MOST_NOISE_BYTES`] twice: 512 KiB at most.
const MOST_ATTEMPTS: usize = 256;
/// Ways on which one attempt may come. A dialler knows about three relays.
const MOST_WAITERS: usize = 8;
/// The longest first message; one with a few addresses has about 200 bytes.
const MOST_NOISE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use peeroxide_dht::{
        hyperdht_messages::{
            ERROR_NONE, FIREWALL_UNKNOWN, MODE_FROM_CLIENT, MODE_FROM_RELAY, MODE_FROM_SERVER,
            MODE_REPLY, NoisePayload, UdxInfo, decode_handshake_from_bytes,
        },
        noise::Keypair,
        noise_wrap::NoiseWrap,
    };

    use super::*;

    #[tokio::test]
    async fn one_attempt_through_two_relays_is_one_knock_and_one_answer() {
        let (door, mut knocks) = door();
        let (mut dialler, noise) = dialler();
        let relay = Ipv4Peer { host: "127.0.0.1".into(), port: 4 };
        let direct = knock(&door, &noise, MODE_FROM_CLIENT, None);
        let relayed = knock(&door, &noise, MODE_FROM_RELAY, Some(relay.clone()));
        let knock_of_dialler = knocks.try_recv().unwrap();
        assert!(knocks.try_recv().is_err());
        assert_eq!(knock_of_dialler.peer(), Some(keys(9).public_key));
        knock_of_dialler.accept().unwrap();
        let late = knock(&door, &noise, MODE_FROM_CLIENT, None);
        let [direct, relayed, late] = [direct, relayed, late].map(answer);
        assert_eq!((direct.mode, direct.peer_address), (MODE_REPLY, None));
        assert_eq!((relayed.mode, relayed.peer_address), (MODE_FROM_SERVER, Some(relay)));
        assert!(direct.noise == relayed.noise && direct.noise == late.noise);
        assert_eq!(dialler.recv(&direct.noise).unwrap().error, ERROR_NONE);
    }

    #[tokio::test]
    async fn a_dropped_knock_is_a_refusal() {
        let (door, mut knocks) = door();
        let (mut dialler, noise) = dialler();
        let answered = knock(&door, &noise, MODE_FROM_CLIENT, None);
        drop(knocks.try_recv().unwrap());
        let refusal = dialler.recv(&answer(answered).noise).unwrap();
        assert_eq!((refusal.error, refusal.udx), (ERROR_ABORTED, None));
    }

    #[tokio::test]
    async fn who_comes_to_a_full_backlog_may_try_later() {
        let (door, _knocks) = door();
        let (_, noise) = dialler();
        let _first = knock(&door, &noise, MODE_FROM_CLIENT, None);
        let (mut dialler, noise) = dialler();
        let answered = knock(&door, &noise, MODE_FROM_CLIENT, None);
        let refusal = dialler.recv(&answer(answered).noise).unwrap();
        assert_eq!(refusal.error, ERROR_TRY_LATER);
    }

    #[tokio::test]
    async fn nonsense_is_answered_with_nothing_and_keeps_nobody_out() {
        let (door, mut knocks) = door();
        for byte in 0..=u8::MAX {
            let mut answered = knock(&door, &[byte; 200], MODE_FROM_CLIENT, None);
            assert_eq!(answered.try_recv().unwrap(), None);
        }
        let _answered = knock(&door, &dialler().1, MODE_FROM_CLIENT, None);
        assert!(knocks.try_recv().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_and_forgotten() {
        let (door, _knocks) = door();
        for _ in 0..MOST_ATTEMPTS {
            let answered = knock(&door, &dialler().1, MODE_FROM_CLIENT, None);
            drop(answered);
        }
        let mut turned_away = knock(&door, &dialler().1, MODE_FROM_CLIENT, None);
        assert_eq!(turned_away.try_recv().unwrap(), None);
        tokio::time::advance(ATTEMPT_LIFE).await;
        let mut answered = knock(&door, &dialler().1, MODE_FROM_CLIENT, None);
        assert!(answered.try_recv().unwrap().is_some(), "told to try later");
    }

    type Answered = oneshot::Receiver<Option<Vec<u8>>>;

    fn door() -> (Arc<Door>, mpsc::Receiver<Knock>) {
        let (knock, knocks) = mpsc::channel(1);
        (Arc::new(Door::new(Arc::new(Identity::from_seed(&[7; 32])), knock)), knocks)
    }

    /// A dialler and its first message.
    fn dialler() -> (NoiseWrap, Vec<u8>) {
        let mut dialler = NoiseWrap::new_initiator(keys(9), keys(7).public_key);
        let udx = UdxInfo { version: 1, reusable_socket: true, id: 5, seq: 0 };
        let payload = NoisePayload {
            version: 1,
            error: ERROR_NONE,
            firewall: FIREWALL_UNKNOWN,
            holepunch: None,
            addresses4: vec![],
            addresses6: vec![],
            udx: Some(udx),
            secret_stream: None,
            relay_through: None,
            relay_addresses: None,
        };
        let noise = dialler.send(&payload).unwrap();
        (dialler, noise)
    }

    fn keys(seed: u8) -> Keypair {
        let identity = Identity::from_seed(&[seed; 32]);
        let keys = identity.key_pair();
        Keypair { public_key: keys.public_key, secret_key: keys.secret_key }
    }

    fn knock(door: &Arc<Door>, noise: &[u8], mode: u64, dialler: Option<Ipv4Peer>) -> Answered {
        let (answer, answered) = oneshot::channel();
        Arc::clone(door).knock(noise.to_vec(), Waiter { mode, dialler, answer });
        answered
    }

    fn answer(mut answered: Answered) -> peeroxide_dht::hyperdht_messages::HandshakeMessage {
        decode_handshake_from_bytes(&answered.try_recv().unwrap().unwrap()).unwrap()
    }
}
