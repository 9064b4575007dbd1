//! Keys in PKCS#11 tokens: HSMs, smart cards, and software that behaves like them.
//!
//! This module is the only one that touches the library. A request goes to a thread that owns a session ([`pool`]); it opens the
//! session, logs in and finds keys when it needs them ([`session`], [`token`]), so that a token that comes back is used again
//! without anybody's doing. What a return code means stands in [`failure`].

mod failure;
mod mechanism;
mod module;
mod pin;
mod pool;
mod question;
mod queue;
mod session;
mod token;
mod uri;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};

use self::failure::{Failure, may_mean_bad_ciphertext};
use self::module::Module;
pub use self::pin::PinSource;
use self::pool::{Bounds, Pool};
use self::question::Undo;
use self::session::Desk;
use self::token::Token;
use self::uri::TokenUri;
use super::secret::Secret;
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore, Sessions, StoredKey};
use crate::algorithm::KeyAlgorithm;
use crate::clock::{Stopwatch, SystemRng, random};
use crate::error::KeyFault;

/// How long the last answer of a token says that it works.
const ANSWER_FRESH: Duration = Duration::from_secs(2);

/// How long somebody who only asks for its condition waits for a token.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A token, and how it is used.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// What operators call this key store.
    pub name: String,
    /// The module: a shared library.
    pub module_path: PathBuf,
    /// The token: its label, or a PKCS#11 URI (RFC 7512).
    pub token: String,
    /// Where its PIN comes from.
    pub pin: PinSource,
    /// Sessions, and so calls at a time.
    pub sessions: usize,
    /// Requests that may wait for a session.
    pub queue_max: usize,
    /// How long a signature may take, with the wait for a session.
    pub deadline: Duration,
    /// How long it may take to make a key.
    pub generate_deadline: Duration,
}

/// Keys in one token: `pkcs11:token=TOKEN;object=LABEL;id=ID;type=private`.
pub(crate) struct TokenKeys {
    name: String,
    token: Arc<Token>,
    pool: Pool,
    deadline: Duration,
    generate_deadline: Duration,
    /// Public keys do not change: they are there when the token is not.
    public_keys: Mutex<HashMap<KeyRef, Vec<u8>>>,
    condition: Mutex<Condition>,
}

#[derive(Default)]
struct Condition {
    /// The last answer, or what kept it from coming; `None` before the first.
    last: Option<(Stopwatch, Result<(), String>)>,
}

impl TokenKeys {
    pub(crate) const SCHEME: &'static str = "pkcs11";

    /// The key store of a token. Nothing is asked of the token or its module yet, so that neither keeps the daemon from starting.
    pub(crate) fn open(settings: TokenSettings) -> Result<Self, KeyFault> {
        let uri = token_uri(&settings.token)?;
        let token = Arc::new(Token::new(Module::at(&settings.module_path), uri, settings.pin, settings.sessions));
        let bounds = Bounds { sessions: settings.sessions, queue_max: settings.queue_max };
        Ok(Self {
            name: settings.name,
            pool: Pool::start(token.clone(), bounds)?,
            token,
            deadline: settings.deadline,
            generate_deadline: settings.generate_deadline,
            public_keys: Mutex::default(),
            condition: Mutex::default(),
        })
    }

    /// Whether an operator's reference to a token or a key is well formed. What is wrong with it is told without what could be a
    /// PIN.
    pub(crate) fn check_reference(wanted: &KeyRef) -> Result<(), KeyFault> {
        TokenUri::parse(&wanted.0).map(|_| ())
    }

    /// Whether the settings of two stores could mean the same token, so that nobody could tell whose a key is.
    pub(crate) fn may_share_token_with(&self, other: &Self) -> bool {
        self.token.uri.may_share_token_with(&other.token.uri)
    }

    fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, KeyFault> {
        self.ask_or_undo(limit, work, None)
    }

    /// Asks for what must not be left behind when nobody waits for it any more.
    fn ask_or_undo<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + Sync + 'static,
        undo: Option<Undo<T>>,
    ) -> Result<T, KeyFault> {
        self.ask_if_there_is_room(limit, work, undo).unwrap_or_else(|| {
            Err(KeyFault::Unavailable(format!("too many requests wait for the token {}", self.token.uri)))
        })
    }

    /// `None` if too many requests wait, which says nothing of the token's condition.
    fn ask_if_there_is_room<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + Sync + 'static,
        undo: Option<Undo<T>>,
    ) -> Option<Result<T, KeyFault>> {
        let answer = self.pool.ask(limit, work, undo)?;
        let works = match &answer {
            Err(KeyFault::Unavailable(why) | KeyFault::Unusable(why)) => Err(why.clone()),
            Ok(_) | Err(KeyFault::NotFound(_) | KeyFault::Unsupported(_) | KeyFault::Undecipherable) => Ok(()),
        };
        self.condition().last = Some((Stopwatch::start(), works));
        Some(answer)
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn public_keys(&self) -> MutexGuard<'_, HashMap<KeyRef, Vec<u8>>> {
        self.public_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A label, or a URI.
fn token_uri(text: &str) -> Result<TokenUri, KeyFault> {
    if !text.starts_with("pkcs11:") {
        return Ok(TokenUri::of_token(text));
    }
    let uri = TokenUri::parse(text)?;
    if !uri.names_a_token() || uri.object().is_some() || uri.id().is_some() {
        return Err(KeyFault::Unsupported(format!("{text:?} must name a token, and no key")));
    }
    Ok(uri)
}

impl KeyStore for TokenKeys {
    fn name(&self) -> &str {
        &self.name
    }

    fn scheme(&self) -> &'static str {
        Self::SCHEME
    }

    fn holds(&self, key: &KeyRef) -> bool {
        TokenUri::parse(&key.0).is_ok_and(|uri| self.token.uri.may_share_token_with(&uri))
    }

    fn label_in(&self, wanted: &KeyRef) -> Result<Option<KeyLabel>, KeyFault> {
        let uri = TokenUri::parse(&wanted.0)?;
        if uri.id().is_some() {
            return Err(KeyFault::Unsupported(format!(
                "there is no key {wanted}, and one that is made gets an id of its own"
            )));
        }
        let Some(object) = uri.object() else { return Ok(None) };
        let text =
            str::from_utf8(object).map_err(|_| KeyFault::Unsupported(format!("{wanted} has no label in UTF-8")))?;
        Ok(Some(KeyLabel(text.to_owned())))
    }

    fn find(&self, wanted: &KeyRef) -> Result<Option<KeyRef>, KeyFault> {
        let uri = TokenUri::parse(&wanted.0)?;
        if uri.object().is_none() && uri.id().is_none() {
            return Ok(None);
        }
        let token = self.token.uri.clone();
        self.ask(self.deadline, move |desk| {
            let Some(handle) = desk.find(&uri)? else { return Ok(None) };
            let (label, id) = names_of(desk, handle)?;
            Ok(Some(KeyRef(token.with_key(&label, &id).to_string())))
        })
    }

    fn keys(&self) -> Result<Vec<StoredKey>, KeyFault> {
        let token = self.token.uri.clone();
        self.ask(self.generate_deadline, move |desk| {
            let template = [Attribute::Token(true), Attribute::Class(ObjectClass::PRIVATE_KEY)];
            let mut keys = Vec::new();
            for handle in desk.session.find_objects(&template)? {
                let (label, id) = names_of(desk, handle)?;
                let key = KeyRef(token.with_key(&label, &id).to_string());
                // A token may hold keys of others, which we cannot use.
                let algorithm = mechanism::read_key(desk.session, handle).ok().map(|found| found.algorithm);
                keys.push(StoredKey { key, algorithm });
            }
            Ok(keys)
        })
    }

    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm, purpose: KeyPurpose) -> Result<KeyRef, KeyFault> {
        let label = label.0.clone().into_bytes();
        let id = random::<16>(&SystemRng);
        let token = self.token.uri.clone();
        let labelled = TokenUri::default().with_key(&label, &[]);
        let work = move |desk: &mut Desk<'_>| {
            let template =
                [Attribute::Token(true), Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.clone())];
            let mut made = None;
            for there in desk.session.find_objects(&template)? {
                // Made a moment ago, in a session that broke before it said so?
                if names_of(desk, there)?.1 == id {
                    made = Some(there);
                } else {
                    let taken = labelled.to_string();
                    return Err(KeyFault::Unsupported(format!("there is a key {taken} in the token already")).into());
                }
            }
            let handle = match made {
                Some(handle) => handle,
                None => mechanism::generate(desk.session, &label, &id, algorithm, purpose)?,
            };
            let key = mechanism::is_as_wanted(desk.session, handle, purpose)
                .and_then(|()| mechanism::read_key(desk.session, handle));
            // Nobody would ever know of a key that cannot be used.
            if matches!(key, Err(Failure::Final(_))) {
                destroy(desk, handle)?;
            }
            Ok((KeyRef(token.with_key(&label, &id).to_string()), key?.public_key))
        };
        let undo: Undo<(KeyRef, Vec<u8>)> = Box::new(|desk, (key, _)| match desk.find(&TokenUri::parse(&key.0)?)? {
            Some(handle) => destroy(desk, handle),
            None => Ok(()),
        });
        let (key, public_key) = self.ask_or_undo(self.generate_deadline, work, Some(undo))?;
        self.public_keys().insert(key.clone(), public_key);
        Ok(key)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault> {
        if let Some(public_key) = self.public_keys().get(key) {
            return Ok(public_key.clone());
        }
        let wanted = key.clone();
        let public_key = self.ask(self.deadline, move |desk| Ok(desk.key(&wanted)?.public_key.clone()))?;
        self.public_keys().insert(key.clone(), public_key.clone());
        Ok(public_key)
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        let (wanted, message) = (key.clone(), message.to_vec());
        let was_there = self.public_keys().contains_key(key);
        self.ask(self.deadline, move |desk| {
            let found = desk.key(&wanted).map_err(|failure| missing(desk, failure, was_there))?;
            mechanism::sign(desk.session, &found, &message)
        })
    }

    fn decrypt(&self, key: &KeyRef, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        let (wanted, ciphertext) = (key.clone(), ciphertext.to_vec());
        let was_there = self.public_keys().contains_key(key);
        self.ask(self.deadline, move |desk| {
            let found = desk.key(&wanted).map_err(|failure| missing(desk, failure, was_there))?;
            let octets = match found.algorithm {
                KeyAlgorithm::Rsa2048 => 256,
                KeyAlgorithm::Rsa3072 => 384,
                KeyAlgorithm::Rsa4096 => 512,
                KeyAlgorithm::EcP256
                | KeyAlgorithm::EcP384
                | KeyAlgorithm::EcP521
                | KeyAlgorithm::Ed25519
                | KeyAlgorithm::MlDsa44
                | KeyAlgorithm::MlDsa65
                | KeyAlgorithm::MlDsa87 => {
                    return Err(KeyFault::Unsupported(format!("a key for {} does not decrypt", found.algorithm)).into());
                }
            };
            if ciphertext.len() != octets {
                return Err(KeyFault::Undecipherable.into());
            }
            let opened =
                desk.session.decrypt(&mechanism::decryption(scheme), found.handle, &ciphertext).map(Secret::new);
            // Modules answer bad padding with about any code. If the session still lives, the ciphertext was at fault. It is asked
            // in either case, lest the time tell which it was.
            let lives = desk.session.get_session_info();
            match opened {
                Err(error) if lives.is_ok() && may_mean_bad_ciphertext(&error) => Err(KeyFault::Undecipherable.into()),
                opened => Ok(opened?),
            }
        })
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault> {
        self.public_keys().remove(key);
        let wanted = key.clone();
        self.ask(self.deadline, move |desk| {
            desk.forget(&wanted);
            let handle = desk.find(&TokenUri::parse(&wanted.0)?)?;
            destroy(desk, handle.ok_or_else(|| KeyFault::NotFound(wanted.to_string()))?)
        })
    }

    /// What the token last answered, if that was a moment ago or too many others ask it; else it is asked.
    fn health(&self) -> KeyHealth {
        let last = self.condition().last.clone();
        let works = match last {
            Some((since, works)) if since.elapsed() < ANSWER_FRESH => works,
            last => {
                let answers = |desk: &mut Desk<'_>| {
                    let slot = desk.session.get_session_info()?.slot_id();
                    desk.library
                        .get_token_info(slot)
                        .map(|_| ())
                        .map_err(|_| Failure::Token(format!("the token {} does not answer", desk.token.uri)))
                };
                match (self.ask_if_there_is_room(PROBE_LIMIT.min(self.deadline), answers, None), last) {
                    (Some(probe), _) => probe.map_err(|fault| fault.to_string()),
                    (None, Some((_, works))) => works,
                    (None, None) => return KeyHealth::Probing,
                }
            }
        };
        let reduced = || {
            let lost = self.pool.lost();
            if lost > 0 {
                return Some(format!("{lost} of the calls on its module have not returned"));
            }
            let Sessions { wanted, given } = self.token.fewer_sessions()?;
            Some(format!("the token gives {given} sessions, not {wanted} as the settings ask for"))
        };
        match works {
            Ok(()) => reduced().map_or(KeyHealth::Usable, KeyHealth::Reduced),
            Err(why) => KeyHealth::Unusable(why),
        }
    }

    fn sessions(&self) -> Result<Option<Sessions>, KeyFault> {
        self.ask(self.deadline, |desk| desk.token.count_sessions(desk.library).map(Some))
    }
}

/// What it means that a key is not found, which may have been there before.
fn missing(desk: &Desk<'_>, failure: Failure, was_there: bool) -> Failure {
    match &failure {
        Failure::Final(KeyFault::NotFound(key)) if was_there => desk.token.misses(key),
        Failure::Closed(_)
        | Failure::Lost(_)
        | Failure::Stumbled(_)
        | Failure::Token(_)
        | Failure::Module(_)
        | Failure::Full { .. }
        | Failure::Final(_) => failure,
    }
}

/// Removes a private key and the public one beside it. The private one goes last: as long as it is there, a repeat finds the rest.
fn destroy(desk: &Desk<'_>, private: ObjectHandle) -> Result<(), Failure> {
    let (_, id) = names_of(desk, private)?;
    // Without an id it could be anybody's.
    if !id.is_empty() {
        let beside = [Attribute::Token(true), Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id)];
        for public in desk.session.find_objects(&beside)? {
            desk.session.destroy_object(public)?;
        }
    }
    Ok(desk.session.destroy_object(private)?)
}

/// CKA_LABEL and CKA_ID.
fn names_of(desk: &Desk<'_>, object: ObjectHandle) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (mut label, mut id) = (Vec::new(), Vec::new());
    for attribute in desk.session.get_attributes(object, &[AttributeType::Label, AttributeType::Id])? {
        if let Attribute::Label(found) = attribute {
            label = found;
        } else if let Attribute::Id(found) = attribute {
            id = found;
        }
    }
    Ok((label, id))
}
