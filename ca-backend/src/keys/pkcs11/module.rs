//! PKCS#11 modules in this process: each is loaded once, whatever number of tokens it serves.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::failure::Failure;

/// How often, and how far apart, the end of other calls is waited for before a module is begun anew.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

static LOADED: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// A module. All calls on it happen while a [`Module::enter`] guard is held, since nothing may run while it is finalized.
pub(crate) struct Module {
    path: PathBuf,
    context: RwLock<Context>,
    /// Tokens of this module that are logged in, and would lose that if it were begun anew.
    pub(crate) tokens_in_use: AtomicUsize,
}

/// A module's library. Sessions of an earlier generation are void.
#[derive(Default)]
pub(crate) struct Context {
    library: Option<Pkcs11>,
    pub(crate) generation: u64,
}

impl Context {
    /// The library; it is there once [`Module::enter`] succeeded.
    pub(crate) fn library(&self) -> Result<&Pkcs11, Failure> {
        self.library.as_ref().ok_or_else(|| Failure::Token("the module is not initialized".to_owned()))
    }
}

impl Module {
    /// The module at a path. Nothing is loaded before [`Module::enter`].
    pub(crate) fn at(path: &Path) -> Arc<Self> {
        // One library under two names is one library.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let module =
            || Arc::new(Self { path: path.clone(), context: RwLock::default(), tokens_in_use: AtomicUsize::default() });
        loaded.entry(path.clone()).or_insert_with(module).clone()
    }

    /// Loads and initializes the module if that was not done yet, and keeps it from being finalized meanwhile.
    pub(crate) fn enter(&self) -> Result<RwLockReadGuard<'_, Context>, Failure> {
        loop {
            let context = self.context.read().unwrap_or_else(PoisonError::into_inner);
            if context.library.is_some() {
                return Ok(context);
            }
            drop(context);
            let mut context = self.context.write().unwrap_or_else(PoisonError::into_inner);
            if context.library.is_none() {
                context.library = Some(self.load()?);
                context.generation += 1;
            }
        }
    }

    /// Finalizes the module and initializes it again, unless somebody else did so since `generation`, calls are still running,
    /// or other tokens are in use. Those do not matter if the module forgot them as well.
    pub(crate) fn begin_anew(&self, generation: u64, forgot: bool) {
        for _ in 0..ATTEMPTS {
            if !forgot && self.tokens_in_use.load(Ordering::SeqCst) > 0 {
                return;
            }
            let mut context = match self.context.try_write() {
                Ok(context) => context,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    std::thread::park_timeout(PAUSE);
                    continue;
                }
            };
            if context.generation == generation
                && let Some(library) = context.library.take()
            {
                // It may have forgotten that it was ever initialized.
                if let Err(error) = library.finalize() {
                    tracing::debug!(module = %self.path.display(), %error, "failed to finalize a PKCS#11 module");
                }
            }
            return;
        }
    }

    fn load(&self) -> Result<Pkcs11, Failure> {
        let failed = |error: Error| Failure::Token(format!("module {}: {error}", self.path.display()));
        let library = Pkcs11::new(&self.path).map_err(failed)?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(library),
            Err(error) => Err(failed(error)),
        }
    }
}
