//! Cuts the power under a store, again and again, and looks for acknowledged writes that are gone.
//!
//! A writer works on an ext4 filesystem in a file, mounted over a loop device. At a random moment it is stopped (SIGSTOP), so that
//! nothing more is acknowledged, and the file is copied without syncing the mounted filesystem. The copy holds what the filesystem
//! handed to its disk up to then, and nothing of what the page cache of the mounted filesystem still held back: what a machine
//! finds after its power failed. (The loop device writes through the page cache of the file that it lies on; reading that file sees
//! all of it, which is why the copy needs no O_DIRECT.) The kernel may still write back while the copy is made, so the copy is
//! compared with the file until both are equal: then it is the disk of one moment.
//!
//! The copy is mounted, which replays its journal, and the store in it is opened and held against the acknowledgements. Then the
//! writer goes on, on an ageing store. Needs root and loop devices.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use ca_backend::testing::{StoreKind, torture_check, torture_write};
use clap::{Parser, Subcommand, ValueEnum};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Large enough for the rounds of one writer.
const DISK_BYTES: u64 = 384 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// After so many rounds a new writer begins on a new disk.
const ROUNDS_PER_DISK: u32 = 20;
/// How long the writer works between two cuts, in milliseconds.
const SHORTEST_WORK_MS: u64 = 20;
const LONGEST_WORK_MS: u64 = 400;

/// Cuts the power under a store and looks for lost writes.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Only this engine.
    #[arg(long)]
    engine: Option<Engine>,
    /// How often to cut the power for each engine.
    #[arg(long, default_value_t = 500)]
    rounds: u32,
    /// Makes the operations and the moments reproducible, as far as a scheduler allows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Role {
    /// The writer: acknowledges on standard output.
    #[command(hide = true)]
    Write { engine: Engine, directory: PathBuf, seed: u64 },
    /// The check: acknowledgements on standard input.
    #[command(hide = true)]
    Check { engine: Engine, directory: PathBuf, seed: u64 },
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Sled,
    Redb,
}

impl Engine {
    fn kind(self) -> StoreKind {
        match self {
            Self::Sled => StoreKind::Sled,
            Self::Redb => StoreKind::Redb,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Write { engine, directory, seed }) => write(engine, &directory, seed).map(|()| true),
        Some(Role::Check { engine, directory, seed }) => check(engine, &directory, seed).map(|()| true),
        None => {
            let engines = arguments.engine.map_or_else(|| vec![Engine::Sled, Engine::Redb], |engine| vec![engine]);
            engines
                .into_iter()
                .try_fold(true, |whole, engine| Ok(cut_repeatedly(engine, arguments.rounds, arguments.seed)? && whole))
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("power-cut: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(engine: Engine, directory: &Path, seed: u64) -> Outcome<()> {
    // A file of its own, since Stdout would buffer the acknowledgements.
    let ack = File::options().append(true).open("/proc/self/fd/1")?;
    Ok(torture_write(directory, engine.kind(), ack, seed)?)
}

fn check(engine: Engine, directory: &Path, seed: u64) -> Outcome<()> {
    let report = torture_check(directory, engine.kind(), std::io::stdin().lock(), seed)?;
    println!("{} {}", report.acknowledged, report.found);
    Ok(())
}

/// Whether no round lost anything.
fn cut_repeatedly(engine: Engine, rounds: u32, seed: u64) -> Outcome<bool> {
    let mut random = Random(seed);
    let (mut done, mut acknowledged, mut lost) = (0, 0_u64, 0_u32);
    while done < rounds {
        let mut disk = Disk::begin(engine, random.next())?;
        let mut on_this_disk = 0;
        for _ in 0..ROUNDS_PER_DISK.min(rounds - done) {
            done += 1;
            disk.work(Duration::from_millis(random.between(SHORTEST_WORK_MS, LONGEST_WORK_MS)))?;
            match disk.cut()? {
                Ok(acknowledged) => on_this_disk = acknowledged,
                Err(what) => {
                    lost += 1;
                    let kept = disk.keep_evidence(done)?;
                    eprintln!("{}: round {done}: {what} (kept in {})", engine.kind(), kept.display());
                }
            }
        }
        acknowledged += on_this_disk;
    }
    println!("{}: {rounds} rounds, {acknowledged} acknowledged, {lost} lost", engine.kind());
    Ok(lost == 0)
}

/// A writer on a filesystem in a file.
struct Disk {
    engine: Engine,
    seed: u64,
    // In the order in which they must end.
    writer: Writer,
    _mounted: Mounted,
    directory: tempfile::TempDir,
}

impl Disk {
    fn begin(engine: Engine, seed: u64) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let image = directory.path().join("disk");
        File::create(&image)?.set_len(DISK_BYTES)?;
        // Nothing is left to be initialised later, behind our back.
        let quiet = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(quiet).arg(&image))?;
        let mounted = Mounted::mount(&image, &directory.path().join("mounted"))?;
        let acknowledgements = File::create(directory.path().join("acknowledged"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(engine.kind().to_string())
            .arg(mounted.path.join("store"))
            .arg(seed.to_string())
            .stdout(acknowledgements)
            // A group of its own: the system wakes the stopped members of a group whose shell ends.
            .process_group(0)
            .spawn()?;
        Ok(Self { engine, seed, writer: Writer { child }, _mounted: mounted, directory })
    }

    /// Lets the writer work for a while.
    #[allow(clippy::disallowed_methods)] // the power does not wait for an event
    fn work(&mut self, duration: Duration) -> Outcome<()> {
        self.writer.signal("CONT")?;
        std::thread::sleep(duration);
        match self.writer.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the writer ended: {status}").into()),
        }
    }

    /// How many operations were acknowledged, all of which the disk held when the power went; or what is wrong.
    fn cut(&self) -> Outcome<Result<u64, String>> {
        self.writer.stop()?;
        let path = self.directory.path();
        let acknowledgements = path.join("acknowledged at the cut");
        fs::copy(path.join("acknowledged"), &acknowledgements)?;
        // A file of its own each time: the loop device of the round before may still hold on to its file, with what it knew of it.
        let copy = tempfile::NamedTempFile::new_in(path)?;
        copy_of_one_moment(&path.join("disk"), copy.path())?;
        let mounted = Mounted::mount(copy.path(), &path.join("mounted copy"))?;
        let store = mounted.path.join("store");
        if !store.exists() {
            return Ok(if fs::metadata(&acknowledgements)?.len() == 0 {
                Ok(0)
            } else {
                Err("the store is gone".into())
            });
        }
        let output = Command::new(std::env::current_exe()?)
            .arg("check")
            .arg(self.engine.kind().to_string())
            .arg(store)
            .arg(self.seed.to_string())
            .stdin(File::open(acknowledgements)?)
            .output()?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let counts = String::from_utf8(output.stdout)?;
        let acknowledged = counts.split_whitespace().next().ok_or("the check said nothing")?;
        Ok(Ok(acknowledged.parse()?))
    }

    /// Keeps the disk of a round that went wrong, as it was before anybody opened it, with its acknowledgements.
    fn keep_evidence(&self, round: u32) -> Outcome<PathBuf> {
        let kept = std::env::temp_dir().join(format!("power-cut-{}-{}-{round}", self.engine.kind(), self.seed));
        fs::create_dir_all(&kept)?;
        copy_of_one_moment(&self.directory.path().join("disk"), &kept.join("disk"))?;
        fs::copy(self.directory.path().join("acknowledged at the cut"), kept.join("acknowledged"))?;
        Ok(kept)
    }
}

/// The writing process; it ends with this value.
struct Writer {
    child: Child,
}

impl Writer {
    fn signal(&self, signal: &str) -> Outcome<()> {
        run(Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()))
    }

    /// Returns once no thread of the writer runs any more, also none inside a system call.
    fn stop(&self) -> Outcome<()> {
        self.signal("STOP")?;
        while !self.is_stopped()? {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_stopped(&self) -> Outcome<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state != Some('T') {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("power-cut: cannot end the writer: {error}");
        }
    }
}

/// A mounted filesystem; it is unmounted with this value.
struct Mounted {
    path: PathBuf,
}

impl Mounted {
    fn mount(image: &Path, path: &Path) -> Outcome<Self> {
        fs::create_dir_all(path)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(path))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.path)) {
            eprintln!("power-cut: {error}");
        }
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Copies a file that may be written meanwhile, such that the copy is the file of one moment: a whole pass found no difference.
fn copy_of_one_moment(from: &Path, to: &Path) -> Outcome<()> {
    let mut from = File::open(from)?;
    let mut to = File::options().read(true).write(true).create(true).truncate(true).open(to)?;
    to.set_len(DISK_BYTES)?;
    while copy_differences(&mut from, &mut to)? {}
    Ok(())
}

/// Whether there were any.
fn copy_differences(from: &mut File, to: &mut File) -> Outcome<bool> {
    let (mut there, mut here) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut differed = false;
    for at in (0..DISK_BYTES).step_by(CHUNK_BYTES) {
        from.seek(SeekFrom::Start(at))?;
        from.read_exact(&mut there)?;
        to.seek(SeekFrom::Start(at))?;
        to.read_exact(&mut here)?;
        if there != here {
            differed = true;
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&there)?;
        }
    }
    Ok(differed)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, least: u64, greatest: u64) -> u64 {
        least + self.next() % (greatest - least + 1)
    }
}
