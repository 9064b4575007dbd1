//! One token: finding it, the login, and the session that keeps the login alive.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use super::failure::Failure;
use super::module::{Context, Module};
use super::pin::PinSource;
use super::uri::TokenUri;
use crate::clock::Stopwatch;
use crate::error::KeyFault;
use crate::sha256;

/// For how long a token that could not be reached is left alone, so that a crowd of requests does not storm it.
const REST: Duration = Duration::from_millis(500);

/// A token in a module.
pub(crate) struct Token {
    pub(crate) module: Arc<Module>,
    pub(crate) uri: TokenUri,
    pin: PinSource,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keeper: Option<Keeper>,
    /// SHA-256 of the PIN that the token refused: never offered again, since tokens count.
    refused: Option<[u8; 32]>,
    /// The last failure to reach the token.
    failed: Option<(Stopwatch, String)>,
    /// Logins that failed, one after the other, for a reason that the module did not make clear.
    stumbled: Option<Stumble>,
}

/// A login that failed, and that may have been counted.
struct Stumble {
    since: Stopwatch,
    times: u32,
    why: String,
}

impl Stumble {
    /// The pause doubles, up to half a minute.
    fn is_over(&self) -> bool {
        self.since.elapsed() >= REST * 2_u32.pow(self.times.min(6))
    }
}

/// A session that nobody uses. When a token's last session closes, its login ends and every key handle with it.
struct Keeper {
    session: Session,
    slot: Slot,
    generation: u64,
}

impl Token {
    pub(crate) fn new(module: Arc<Module>, uri: TokenUri, pin: PinSource) -> Self {
        Self { module, uri, pin, state: Mutex::default() }
    }

    /// Opens a session in which the user is logged in.
    pub(crate) fn open_session(&self, context: &Context) -> Result<Session, Failure> {
        let mut state = self.state();
        if state.keeper.as_ref().is_some_and(|keeper| keeper.generation != context.generation) {
            self.forget_keeper(&mut state);
        }
        if let Some((since, why)) = &state.failed
            && since.elapsed() < REST
        {
            return Err(Failure::Final(KeyFault::Unavailable(why.clone())));
        }
        let opened = self.connect(&mut state, context);
        state.failed = match &opened {
            Err(Failure::Token(why)) => Some((Stopwatch::start(), why.clone())),
            Err(Failure::Session(_) | Failure::Final(_)) | Ok(_) => None,
        };
        opened
    }

    /// The token is away: the next session begins with looking for it.
    pub(crate) fn lost(&self, generation: u64) {
        let mut state = self.state();
        if state.keeper.as_ref().is_some_and(|keeper| keeper.generation == generation) {
            self.forget_keeper(&mut state);
        }
        drop(state);
        self.module.begin_anew(generation);
    }

    /// The token is gone, and the keeper is not closed: its handle is void, and may be another session's by now.
    fn forget_keeper(&self, state: &mut State) {
        if state.keeper.take().is_some() {
            self.module.tokens_in_use.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn connect(&self, state: &mut State, context: &Context) -> Result<Session, Failure> {
        let library = context.library()?;
        let slot = match &state.keeper {
            Some(keeper) => keeper.slot,
            None => {
                let slot = self.find(context)?;
                let session = open(library, slot)?;
                state.keeper = Some(Keeper { session, slot, generation: context.generation });
                self.module.tokens_in_use.fetch_add(1, Ordering::SeqCst);
                slot
            }
        };
        let session = match open(library, slot) {
            Ok(session) => session,
            Err(failure) => {
                // With too few sessions, say, it is still the token that others are logged in to.
                if matches!(failure, Failure::Token(_)) {
                    self.forget_keeper(state);
                }
                return Err(failure);
            }
        };
        if let Err(failure) = self.log_in(state, &session, context, slot) {
            // Without a login the session is of no use; closing it touches no other.
            let _closed_or_not = session.close();
            return Err(failure);
        }
        Ok(session)
    }

    fn find(&self, context: &Context) -> Result<Slot, Failure> {
        let library = context.library()?;
        let mut seen = Vec::new();
        for slot in library.get_slots_with_token()? {
            let Ok(info) = library.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            if self.uri.fits_token(info.label(), info.serial_number(), info.manufacturer_id(), info.model()) {
                return Ok(slot);
            }
            seen.push(format!("{:?}", info.label()));
        }
        let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        Err(Failure::Token(format!("the token {} is not there; there are {seen}", self.uri)))
    }

    fn log_in(&self, state: &mut State, session: &Session, context: &Context, slot: Slot) -> Result<(), Failure> {
        if is_logged_in(session)? {
            return Ok(());
        }
        let info = context.library()?.get_token_info(slot)?;
        let pin = self.pin.read()?;
        if pin.is_none() && !info.login_required() {
            return Ok(());
        }
        if pin.is_none() && !info.protected_authentication_path() {
            return Err(KeyFault::Unusable(format!("the token {} wants a PIN, and none is set", self.uri)).into());
        }
        let digest = pin.as_ref().map(|pin| sha256(pin));
        if digest.is_some() && state.refused == digest {
            return Err(KeyFault::Unusable(format!(
                "the token {} refused the PIN; it is not offered again until it changes or the daemon restarts",
                self.uri
            ))
            .into());
        }
        if info.user_pin_locked() {
            return Err(KeyFault::Unusable(format!("the PIN of the token {} is locked", self.uri)).into());
        }
        if let Some(stumble) = &state.stumbled
            && !stumble.is_over()
        {
            return Err(KeyFault::Unavailable(stumble.why.clone()).into());
        }
        let logged_in = match pin {
            Some(pin) => session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec()))),
            None => session.login(UserType::User, None),
        };
        match logged_in {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                state.refused = None;
                state.stumbled = None;
                Ok(())
            }
            Err(error) if counts_as_refused(&error) || (is_unclear(&error) && counted(context, slot)) => {
                state.refused = digest;
                state.stumbled = None;
                Err(KeyFault::Unusable(format!("the token {} refused the PIN: {error}", self.uri)).into())
            }
            // Not at once again: for all that is known it was a wrong PIN.
            Err(error) if is_unclear(&error) => {
                let why = format!("logging in to the token {} failed: {error}", self.uri);
                let times = state.stumbled.as_ref().map_or(0, |stumble| stumble.times.saturating_add(1));
                state.stumbled = Some(Stumble { since: Stopwatch::start(), times, why: why.clone() });
                Err(KeyFault::Unavailable(why).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody uses it any more: its other sessions are closed by their threads.
impl Drop for Token {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(keeper) = state.keeper.take() else { return };
        if let Ok(context) = self.module.enter()
            && context.generation == keeper.generation
        {
            let _closed_or_gone = keeper.session.close();
        }
        self.module.tokens_in_use.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Never closed by being dropped: its handle may be void by then, and another session's.
fn open(library: &cryptoki::context::Pkcs11, slot: Slot) -> Result<Session, Failure> {
    match library.open_rw_session_no_drop(slot) {
        Ok(session) => Ok(session),
        Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => Ok(library.open_ro_session_no_drop(slot)?),
        Err(error) => Err(error.into()),
    }
}

/// Whether the user is logged in, in this session and so in all of the token.
pub(crate) fn is_logged_in(session: &Session) -> Result<bool, Failure> {
    Ok(match session.get_session_info()?.session_state() {
        SessionState::RoUser | SessionState::RwUser => true,
        SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => false,
    })
}

fn counts_as_refused(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::UserPinNotInitialized,
            _
        )
    )
}

/// Whether an error of a login may stand for a wrong PIN, which some modules call by a name of their own.
fn is_unclear(error: &Error) -> bool {
    let speaks_of_the_session = matches!(
        error,
        Error::Pkcs11(RvError::SessionHandleInvalid | RvError::SessionClosed | RvError::SessionReadOnlyExists, _)
    );
    !speaks_of_the_session && matches!(Failure::of(error), Failure::Session(_))
}

/// Whether the token has counted a wrong PIN since the last login (PKCS #11, CKF_USER_PIN_COUNT_LOW and its like).
fn counted(context: &Context, slot: Slot) -> bool {
    let info = context.library().ok().and_then(|library| library.get_token_info(slot).ok());
    info.is_some_and(|info| info.user_pin_count_low() || info.user_pin_final_try() || info.user_pin_locked())
}

/// Which token; never its PIN.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.uri)
    }
}
