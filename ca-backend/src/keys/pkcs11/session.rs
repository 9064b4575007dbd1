//! A thread's session, and what is done in it.

use std::collections::HashMap;
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::failure::Failure;
use super::mechanism::{self, TokenKey};
use super::token::{Token, is_logged_in};
use super::uri::TokenUri;
use crate::error::KeyFault;
use crate::keys::KeyRef;

/// Where a thread works: it keeps its session from one request to the next.
pub(crate) struct Seat {
    token: Arc<Token>,
    session: Option<Open>,
}

struct Open {
    session: Session,
    generation: u64,
    /// Handles are found once.
    keys: HashMap<KeyRef, TokenKey>,
}

/// A session for the time of one request.
pub(crate) struct Desk<'a> {
    /// The module.
    pub(crate) library: &'a Pkcs11,
    /// The session; the user is logged in.
    pub(crate) session: &'a Session,
    /// The token.
    pub(crate) token: &'a Token,
    keys: &'a mut HashMap<KeyRef, TokenKey>,
}

impl Seat {
    pub(crate) fn new(token: Arc<Token>) -> Self {
        Self { token, session: None }
    }

    /// Closes the session, and takes a new one the next time.
    pub(crate) fn leave(&mut self) {
        let Some(open) = self.session.take() else { return };
        // One of an earlier generation is void, and its handle may be another session's by now.
        if let Ok(context) = self.token.module.enter()
            && context.generation == open.generation
        {
            let _closed_or_gone = open.session.close();
        }
    }

    /// Does `work`, and once more from the beginning if the session or the token turned out to be no good.
    pub(crate) fn perform<T>(&mut self, work: &dyn Fn(&mut Desk<'_>) -> Result<T, Failure>) -> Result<T, KeyFault> {
        match self.attempt(work) {
            Err(Failure::Session(why) | Failure::Token(why)) => {
                tracing::debug!(token = %self.token.uri, why, "a PKCS#11 session is begun anew");
                self.attempt(work).map_err(Failure::into_fault)
            }
            done => done.map_err(Failure::into_fault),
        }
    }

    fn attempt<T>(&mut self, work: &dyn Fn(&mut Desk<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let token = self.token.clone();
        let context = token.module.enter()?;
        let generation = context.generation;
        if self.session.as_ref().is_some_and(|open| open.generation != generation) {
            self.session = None;
        }
        let done = match self.session.as_mut() {
            Some(open) => Ok(open),
            None => token
                .open_session(&context)
                .map(|session| self.session.insert(Open { session, generation, keys: HashMap::new() })),
        }
        .and_then(|open| {
            let library = context.library()?;
            work(&mut Desk { library, session: &open.session, token: &token, keys: &mut open.keys })
        });
        match &done {
            Err(Failure::Session(_)) => {
                // Closed, so that the token does not run out of sessions. If it is gone already, so be it.
                if let Some(open) = self.session.take() {
                    let _closed_or_gone = open.session.close();
                }
            }
            Err(Failure::Token(_)) => {
                self.session = None;
                drop(context);
                token.lost(generation);
            }
            Err(Failure::Final(_)) | Ok(_) => {}
        }
        done
    }
}

impl Desk<'_> {
    /// The key of a reference: its handle and its public key.
    pub(crate) fn key(&mut self, key: &KeyRef) -> Result<TokenKey, Failure> {
        if let Some(found) = self.keys.get(key) {
            return Ok(found.clone());
        }
        let uri = TokenUri::parse(&key.0)?;
        let handle = self.find(&uri)?.ok_or_else(|| KeyFault::NotFound(key.to_string()))?;
        let found = mechanism::read_key(self.session, handle)?;
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
            [] if self.session_lost_its_login()? => Err(Failure::Session("the login was lost".to_owned())),
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
