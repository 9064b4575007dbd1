//! One token: finding it, the login, its sessions, and the one that keeps the login alive.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::Pkcs11;
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
use crate::keys::Sessions;
use crate::sha256;

/// For how long a token that could not be reached is left alone, so that a crowd of requests does not storm it.
const REST: Duration = Duration::from_millis(500);

/// How long a token was there before it is looked for again because a key is not in it any more.
const MISSED_AFTER: Duration = Duration::from_secs(30);

/// More sessions than anybody wants.
const ENOUGH: usize = usize::MAX;

/// A token in a module.
pub(crate) struct Token {
    pub(crate) module: Arc<Module>,
    pub(crate) uri: TokenUri,
    pin: PinSource,
    /// How many sessions the settings ask for.
    sessions_wanted: usize,
    /// How often the token was lost: sessions from before are void.
    epoch: AtomicU64,
    /// How many sessions the token gave when it gave no more, if it was fewer than wanted; else [`ENOUGH`].
    given: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
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

/// A token that was found.
struct Connection {
    slot: Slot,
    generation: u64,
    since: Stopwatch,
    /// Sessions in which there is work, or was.
    sessions: usize,
    /// A session that nobody uses. When a token's last session closes, its login ends and every key handle with it.
    keeper: Option<Session>,
    /// How many sessions the token says that it gives.
    stated_max: Option<usize>,
}

/// A session of a token, good for as long as the token is not lost.
pub(crate) struct TokenSession {
    pub(crate) session: Session,
    generation: u64,
    epoch: u64,
}

impl Token {
    pub(crate) fn new(module: Arc<Module>, uri: TokenUri, pin: PinSource, sessions_wanted: usize) -> Self {
        let (epoch, given) = (AtomicU64::default(), AtomicUsize::new(ENOUGH));
        Self { module, uri, pin, sessions_wanted, epoch, given, state: Mutex::default() }
    }

    /// Opens a session in which the user is logged in.
    pub(crate) fn open_session(&self, context: &Context) -> Result<TokenSession, Failure> {
        let mut state = self.state();
        if state.connection.as_ref().is_some_and(|connection| connection.generation != context.generation) {
            self.forget_connection(&mut state);
        }
        if let Some((since, why)) = &state.failed
            && since.elapsed() < REST
        {
            return Err(Failure::Final(KeyFault::Unavailable(why.clone())));
        }
        let opened = self.connect(&mut state, context);
        state.failed = match &opened {
            Err(Failure::Token(why) | Failure::Module(why)) => Some((Stopwatch::start(), why.clone())),
            Err(
                Failure::Closed(_) | Failure::Lost(_) | Failure::Stumbled(_) | Failure::Full { .. } | Failure::Final(_),
            )
            | Ok(_) => None,
        };
        let session = opened?;
        Ok(TokenSession { session, generation: context.generation, epoch: self.epoch() })
    }

    /// Whether a session is from before the token was lost, or the module begun anew.
    pub(crate) fn is_void(&self, session: &TokenSession, context: &Context) -> bool {
        session.generation != context.generation || session.epoch != self.epoch()
    }

    /// Somebody is done with a session. It is closed, since tokens have few, unless it is closed already: a void handle may be
    /// another session's by now.
    pub(crate) fn give_back(&self, session: TokenSession, context: &Context, closed_already: bool) {
        let mut state = self.state();
        if self.is_void(&session, context) {
            return;
        }
        if let Some(connection) = &mut state.connection {
            connection.sessions = connection.sessions.saturating_sub(1);
        }
        drop(state);
        if !closed_already {
            let _closed_or_gone = session.session.close();
        }
    }

    /// The token is away, or its module forgot it: the next session begins with looking for it. `epoch` is the one in which that
    /// was noticed.
    pub(crate) fn lost(&self, generation: u64, epoch: u64, module_forgot: bool) {
        let mut state = self.state();
        if self.epoch() == epoch {
            self.forget_connection(&mut state);
        }
        drop(state);
        self.module.begin_anew(generation, module_forgot);
    }

    /// How often the token was lost so far.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// What it means that a key which was there is not any more: it went with its token, for all that we know. But one key that
    /// somebody removed must not cost all others their sessions, again and again.
    pub(crate) fn misses(&self, key: &str) -> Failure {
        let why = format!("the key {key} is not in its token any more");
        let found_long_ago =
            self.state().connection.as_ref().is_some_and(|found| found.since.elapsed() >= MISSED_AFTER);
        let alone = self.module.tokens_in_use.load(Ordering::SeqCst) <= 1;
        if found_long_ago && alone { Failure::Token(why) } else { Failure::Final(KeyFault::Unavailable(why)) }
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.state().connection.as_ref().map_or(0, |connection| connection.sessions)
    }

    /// How many sessions the token gives, if that is known to be fewer than the settings ask for.
    pub(crate) fn fewer_sessions(&self) -> Option<Sessions> {
        let given = self.given.load(Ordering::SeqCst);
        (given != ENOUGH).then_some(Sessions { wanted: self.sessions_wanted, given })
    }

    /// Finds out how many sessions the token gives.
    pub(crate) fn count_sessions(&self, library: &Pkcs11) -> Result<Sessions, Failure> {
        // Nobody else opens one meanwhile, and so meets a token that is full only now.
        let state = self.state();
        let Some(connection) = &state.connection else {
            return Err(Failure::Token(format!("the token {} is not there", self.uri)));
        };
        let (slot, stated_max) = (connection.slot, connection.stated_max);
        let (sessions, keeper) = (connection.sessions, usize::from(connection.keeper.is_some()));
        let (mut more, mut full) = (Vec::new(), false);
        while sessions + more.len() < self.sessions_wanted && !full {
            match open_one_more(library, slot, sessions + keeper + more.len(), stated_max) {
                Ok(session) => more.push(session),
                Err(Failure::Full { .. }) => full = true,
                Err(failure) => {
                    close_all(more);
                    return Err(failure);
                }
            }
        }
        // The keeper's place is there for one that works.
        let count = self.sessions_wanted.min(sessions + more.len() + if full { keeper } else { 0 });
        close_all(more);
        self.note_given(count);
        Ok(Sessions { wanted: self.sessions_wanted, given: count })
    }

    /// Says it once.
    fn note_given(&self, given: usize) {
        let given = if given < self.sessions_wanted { given } else { ENOUGH };
        if self.given.swap(given, Ordering::SeqCst) == given {
            return;
        }
        if given == ENOUGH {
            tracing::info!(token = %self.uri, "the token gives as many sessions as the settings ask for");
        } else {
            let (token, wanted) = (&self.uri, self.sessions_wanted);
            tracing::warn!(%token, given, wanted, "the token gives fewer sessions than the settings ask for");
        }
    }

    /// The token is gone, and no session is closed: handles are void, and may be those of others by now.
    fn forget_connection(&self, state: &mut State) {
        if state.connection.take().is_some() {
            self.epoch.fetch_add(1, Ordering::SeqCst);
            self.module.tokens_in_use.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn connect(&self, state: &mut State, context: &Context) -> Result<Session, Failure> {
        let library = context.library()?;
        if state.connection.is_none() {
            let slot = self.find(context)?;
            let info = library.get_token_info(slot)?;
            let stated = [info.max_session_count(), info.max_rw_session_count()].map(Option::<u64>::from);
            let stated_max = stated.into_iter().flatten().min().and_then(|most| usize::try_from(most).ok());
            let (generation, since) = (context.generation, Stopwatch::start());
            let found = Connection { slot, generation, since, sessions: 0, keeper: None, stated_max };
            state.connection = Some(found);
            self.module.tokens_in_use.fetch_add(1, Ordering::SeqCst);
            if let Some(most) = stated_max.filter(|most| *most < self.sessions_wanted) {
                self.note_given(most);
            }
        }
        let session = match self.open_counted(state, library) {
            Ok(session) => session,
            Err(failure) => {
                // With too few sessions, say, it is still the token that others are logged in to.
                if matches!(failure, Failure::Token(_) | Failure::Module(_)) {
                    self.forget_connection(state);
                }
                return Err(failure);
            }
        };
        if let Err(failure) = self.log_in(state, &session, context) {
            // Without a login the session is of no use; closing it touches no other.
            if !matches!(failure, Failure::Closed(_)) {
                let _closed_or_not = session.close();
            }
            return Err(failure);
        }
        if let Some(connection) = &mut state.connection {
            connection.sessions += 1;
            if !connection.keeper.as_ref().is_some_and(lives) {
                // With none to spare, those at work keep the login too, as long as one of them is open.
                connection.keeper = library.open_ro_session_no_drop(connection.slot).ok();
            }
        }
        Ok(session)
    }

    /// Opens a session. If the token gives no more, the keeper's place is worth more to one that works.
    fn open_counted(&self, state: &mut State, library: &Pkcs11) -> Result<Session, Failure> {
        let Some(connection) = &mut state.connection else {
            return Err(Failure::Token(format!("the token {} is not there", self.uri)));
        };
        let (slot, open, stated_max) = (connection.slot, connection.sessions, connection.stated_max);
        let mut opened = open_one_more(library, slot, open + usize::from(connection.keeper.is_some()), stated_max);
        if matches!(opened, Err(Failure::Full { .. }))
            && let Some(keeper) = connection.keeper.take()
        {
            if lives(&keeper) {
                let _closed_or_gone = keeper.close();
            }
            opened = open_one_more(library, slot, open, stated_max);
        }
        match opened {
            Ok(session) => {
                // Others may have closed theirs since.
                if self.given.load(Ordering::SeqCst) <= open {
                    self.note_given(open + 1);
                }
                Ok(session)
            }
            Err(Failure::Full { why, .. }) => {
                self.note_given(open);
                Err(Failure::Full { open, why })
            }
            Err(failure) => Err(failure),
        }
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

    fn log_in(&self, state: &mut State, session: &Session, context: &Context) -> Result<(), Failure> {
        let there = session.get_session_info()?;
        if is_of_user(there.session_state()) {
            return Ok(());
        }
        let slot = there.slot_id();
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
        // A person may take that risk.
        if pin.is_some() && info.user_pin_final_try() {
            return Err(KeyFault::Unusable(format!(
                "one more wrong PIN would lock the token {}: log in to it once with its vendor's tool",
                self.uri
            ))
            .into());
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
            Err(error)
                if digest.is_some()
                    && (counts_as_refused(&error) || (is_unclear(&error) && counted(context, slot))) =>
            {
                state.refused = digest;
                state.stumbled = None;
                Err(KeyFault::Unusable(format!("the token {} refused the PIN: {error}", self.uri)).into())
            }
            // Not at once again: for all that is known it was a wrong PIN, or somebody at the keypad who mistyped it.
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
        let Some(connection) = state.connection.take() else { return };
        if let Some(keeper) = connection.keeper
            && let Ok(context) = self.module.enter()
            && context.generation == connection.generation
        {
            let _closed_or_gone = keeper.close();
        }
        self.module.tokens_in_use.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Never closed by being dropped: its handle may be void by then, and another session's.
fn open(library: &Pkcs11, slot: Slot) -> Result<Session, Failure> {
    match library.open_rw_session_no_drop(slot) {
        Ok(session) => Ok(session),
        Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => Ok(library.open_ro_session_no_drop(slot)?),
        Err(error) => Err(error.into()),
    }
}

/// Opens one more beside those that are `there`. Not every module has the right word for more than it says that it gives.
fn open_one_more(library: &Pkcs11, slot: Slot, there: usize, stated_max: Option<usize>) -> Result<Session, Failure> {
    match open(library, slot) {
        Err(Failure::Stumbled(why)) if stated_max.is_some_and(|most| there >= most) => {
            Err(Failure::Full { open: there, why })
        }
        opened => opened,
    }
}

/// Whether a session is still open.
fn lives(session: &Session) -> bool {
    !matches!(is_logged_in(session), Err(Failure::Closed(_)))
}

fn close_all(sessions: Vec<Session>) {
    for session in sessions {
        let _closed_or_gone = session.close();
    }
}

/// Whether the user is logged in, in this session and so in all of the token.
pub(crate) fn is_logged_in(session: &Session) -> Result<bool, Failure> {
    Ok(is_of_user(session.get_session_info()?.session_state()))
}

fn is_of_user(state: SessionState) -> bool {
    match state {
        SessionState::RoUser | SessionState::RwUser => true,
        SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => false,
    }
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

/// Whether an error of a login may stand for a wrong PIN, which some modules call by a name of their own: all may that do not
/// speak of something else.
fn is_unclear(error: &Error) -> bool {
    match Failure::of(error) {
        Failure::Lost(_) | Failure::Stumbled(_) | Failure::Full { .. } | Failure::Final(_) => true,
        Failure::Closed(_) | Failure::Token(_) | Failure::Module(_) => false,
    }
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
