//! A thread's session, and what is done in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::failure::Failure;
use super::mechanism::{self, TokenKey};
use super::token::{Token, TokenSession, is_logged_in};
use super::uri::TokenUri;
use crate::error::KeyFault;
use crate::keys::KeyRef;

/// How often a request begins anew in another session because its own was closed, at most. A connection that is reset costs each
/// session once or twice; more than that is no accident.
const REPEATS_MAX: u32 = 8;

/// The pause before the second such attempt; it grows twofold. There is none before the first.
const PAUSE: Duration = Duration::from_millis(1);

/// Where a thread works: it keeps its session from one request to the next.
pub(crate) struct Seat {
    token: Arc<Token>,
    open: Option<Open>,
}

struct Open {
    session: TokenSession,
    /// Handles are found once.
    keys: HashMap<KeyRef, Arc<TokenKey>>,
}

/// A session for the time of one request.
pub(crate) struct Desk<'a> {
    /// The module.
    pub(crate) library: &'a Pkcs11,
    /// The session; the user is logged in.
    pub(crate) session: &'a Session,
    /// The token.
    pub(crate) token: &'a Token,
    keys: &'a mut HashMap<KeyRef, Arc<TokenKey>>,
}

impl Seat {
    pub(crate) fn new(token: Arc<Token>) -> Self {
        Self { token, open: None }
    }

    /// Closes the session, and takes a new one the next time.
    pub(crate) fn leave(&mut self) {
        if let Some(open) = self.open.take()
            && let Ok(context) = self.token.module.enter()
        {
            self.token.give_back(open.session, &context, false);
        }
    }

    /// Does `work`, and again from the beginning in another session if this one turned out to be closed, within the time that
    /// `has_time` grants; once only if it is not clear what went wrong. So `work` must do no harm when it is done twice.
    pub(crate) fn perform<T>(
        &mut self,
        has_time: &dyn Fn(Duration) -> bool,
        work: &dyn Fn(&mut Desk<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (mut repeats, mut stumbled) = (0, false);
        loop {
            let failure = match self.attempt(work) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let pause = match &failure {
                Failure::Closed(_) | Failure::Lost(_) if repeats < REPEATS_MAX => {
                    repeats += 1;
                    PAUSE * (2_u32.pow(repeats - 1) - 1)
                }
                Failure::Stumbled(_) | Failure::Token(_) | Failure::Module(_) if !stumbled => {
                    stumbled = true;
                    Duration::ZERO
                }
                Failure::Closed(_)
                | Failure::Lost(_)
                | Failure::Stumbled(_)
                | Failure::Token(_)
                | Failure::Module(_)
                | Failure::Full { .. }
                | Failure::Final(_) => return Err(failure),
            };
            if !has_time(pause) {
                return Err(failure);
            }
            tracing::debug!(token = %self.token.uri, ?failure, "a PKCS#11 session is begun anew");
            std::thread::park_timeout(pause);
        }
    }

    fn attempt<T>(&mut self, work: &dyn Fn(&mut Desk<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let token = self.token.clone();
        let context = token.module.enter()?;
        let (generation, epoch) = (context.generation, token.epoch());
        if self.open.as_ref().is_some_and(|open| token.is_void(&open.session, &context)) {
            self.open = None;
        }
        let done = match self.open.as_mut() {
            Some(open) => Ok(open),
            None => {
                token.open_session(&context).map(|session| self.open.insert(Open { session, keys: HashMap::new() }))
            }
        }
        .and_then(|open| {
            let library = context.library()?;
            work(&mut Desk { library, session: &open.session.session, token: &token, keys: &mut open.keys })
        });
        match &done {
            Err(failure @ (Failure::Closed(_) | Failure::Lost(_) | Failure::Stumbled(_))) => {
                if let Some(open) = self.open.take() {
                    token.give_back(open.session, &context, matches!(failure, Failure::Closed(_)));
                }
            }
            Err(failure @ (Failure::Token(_) | Failure::Module(_))) => {
                self.open = None;
                drop(context);
                token.lost(generation, epoch, matches!(failure, Failure::Module(_)));
            }
            Err(Failure::Full { .. } | Failure::Final(_)) | Ok(_) => {}
        }
        done
    }
}

impl Desk<'_> {
    /// The key of a reference: its handle and its public key.
    pub(crate) fn key(&mut self, key: &KeyRef) -> Result<Arc<TokenKey>, Failure> {
        if let Some(found) = self.keys.get(key) {
            return Ok(found.clone());
        }
        let uri = TokenUri::parse(&key.0)?;
        let handle = self.find(&uri)?.ok_or_else(|| KeyFault::NotFound(key.to_string()))?;
        let found = Arc::new(mechanism::read_key(self.session, handle)?);
        self.keys.insert(key.clone(), found.clone());
        Ok(found)
    }

    /// The one private key that fits a URI.
    pub(crate) fn find(&self, uri: &TokenUri) -> Result<Option<ObjectHandle>, Failure> {
        let mut template = vec![Attribute::Token(true), Attribute::Class(ObjectClass::PRIVATE_KEY)];
        template.extend(uri.object().map(|label| Attribute::Label(label.to_vec())));
        template.extend(uri.id().map(|id| Attribute::Id(id.to_vec())));
        match self.session.find_objects(&template)?.as_slice() {
            [one] => Ok(Some(*one)),
            // Nobody sees private objects after a login was lost: that is no answer.
            [] if self.session_lost_its_login()? => Err(Failure::Lost("the login was lost".to_owned())),
            [] => Ok(None),
            several => Err(KeyFault::Unsupported(format!(
                "{} keys fit {uri}: say which with id=, as `certgate key list` shows it",
                several.len()
            ))
            .into()),
        }
    }

    /// The handle is not asked for again.
    pub(crate) fn forget(&mut self, key: &KeyRef) {
        self.keys.remove(key);
    }

    fn session_lost_its_login(&self) -> Result<bool, Failure> {
        Ok(!is_logged_in(self.session)? && self.library.get_token_info(self.slot()?)?.login_required())
    }

    fn slot(&self) -> Result<cryptoki::slot::Slot, Failure> {
        Ok(self.session.get_session_info()?.slot_id())
    }
}
