//! What remote perspectives saw of the same thing, and whether that is enough (multi-perspective issuance corroboration, section
//! 3.2.2.9 of the Baseline Requirements).

use std::collections::BTreeSet;

use ca_backend::{Reason, Refusal};

use crate::error::ProblemType;
use crate::validation::{Found, Verdict};

/// The most perspectives of an endpoint.
const PERSPECTIVES_MAX: usize = 16;

/// What a remote perspective brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its name.
    pub perspective: String,
    /// What it found; `None` if it could not be asked or gave no usable answer.
    pub found: Option<Found>,
}

/// Who is asked beside this node, and how many of them may fail to see what it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quorum {
    pub(crate) perspectives: Vec<String>,
    failures_max: Option<usize>,
}

impl Quorum {
    pub(crate) fn new(perspectives: Vec<String>, failures_max: Option<usize>) -> Self {
        Self { perspectives, failures_max }
    }

    /// How many may fail: as stated, else none of one, one of two to five, two of six or more.
    fn failures_max(&self) -> usize {
        self.failures_max.unwrap_or(match self.perspectives.len() {
            0 | 1 => 0,
            2..=5 => 1,
            _ => 2,
        })
    }

    /// Whether anybody is left whose word counts.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let refuse = |text: &str| Err(Refusal::new(Reason::Malformed, text));
        let distinct: BTreeSet<_> = self.perspectives.iter().collect();
        if distinct.len() != self.perspectives.len() || distinct.len() > PERSPECTIVES_MAX {
            return refuse("perspectives names up to 16 remote perspectives, each once");
        }
        if self.failures_max.is_some_and(|failures| failures >= self.perspectives.len()) {
            return refuse("perspective_failures_max must be less than the number of perspectives");
        }
        Ok(())
    }

    /// Whether so many have confirmed that nobody else need be waited for.
    pub(crate) fn is_reached(&self, confirmed: usize) -> bool {
        confirmed.saturating_add(self.failures_max()) >= self.perspectives.len()
    }

    /// What this node saw, and `shown` describes, in the light of what the others saw: their names and verdicts.
    pub(crate) fn judge(&self, shown: String, verdicts: &[(&str, Option<Verdict>)]) -> Verdict {
        if self.perspectives.is_empty() {
            return Verdict::Shown(shown);
        }
        let (mut confirming, mut denials, mut silences) = (BTreeSet::new(), Vec::new(), Vec::new());
        for name in &self.perspectives {
            match verdicts.iter().find(|(perspective, _)| perspective == name).map(|(_, verdict)| verdict) {
                Some(Some(Verdict::Shown(_))) => drop(confirming.insert(name.as_str())),
                Some(Some(Verdict::NotShown(problem, text))) => denials.push((*problem, text.as_str())),
                Some(Some(Verdict::NoAnswer(problem, text))) => silences.push((*problem, text.as_str())),
                Some(None) | None => silences.push((ProblemType::ServerInternal, "")),
            }
        }
        if self.is_reached(confirming.len()) {
            let names: Vec<_> = confirming.into_iter().collect();
            return Verdict::Shown(format!("{shown}, confirmed by {}", names.join(", ")));
        }
        let (problem, why) =
            denials.iter().chain(&silences).copied().next().unwrap_or((ProblemType::ServerInternal, ""));
        let mut text = format!(
            "{} of {} remote perspectives did not confirm what this server saw ({} may fail): {} saw something else, {} saw nothing",
            denials.len() + silences.len(),
            self.perspectives.len(),
            self.failures_max(),
            denials.len(),
            silences.len(),
        );
        if !why.is_empty() {
            text.push_str("; ");
            text.push_str(why);
        }
        // Who saw nothing may see it the next time.
        if denials.len() > self.failures_max() {
            Verdict::NotShown(problem, text)
        } else {
            Verdict::NoAnswer(problem, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(perspectives: usize) -> Quorum {
        Quorum::new((0..perspectives).map(|number| format!("p{number}")).collect(), None)
    }

    fn verdict(quorum: &Quorum, confirmed: usize, denied: usize) -> Verdict {
        let verdicts: Vec<_> = quorum
            .perspectives
            .iter()
            .enumerate()
            .map(|(place, name)| {
                let verdict = match place {
                    _ if place < confirmed => Some(Verdict::Shown("here".to_owned())),
                    _ if place < confirmed + denied => Some(Verdict::NotShown(ProblemType::Caa, "no".to_owned())),
                    _ => None,
                };
                (name.as_str(), verdict)
            })
            .collect();
        quorum.judge("here".to_owned(), &verdicts)
    }

    #[test]
    fn s27_as_many_perspectives_may_fail_as_the_baseline_requirements_let() {
        for (perspectives, may_fail) in [(0, 0), (1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (10, 2)] {
            let quorum = quorum(perspectives);
            for failing in 0..=perspectives {
                for denied in 0..=failing {
                    let verdict = verdict(&quorum, perspectives - failing, denied);
                    let expected = failing <= may_fail;
                    assert_eq!(
                        matches!(verdict, Verdict::Shown(_)),
                        expected,
                        "{failing} of {perspectives}: {verdict:?}"
                    );
                    let for_good = matches!(verdict, Verdict::NotShown(ProblemType::Caa, _));
                    assert_eq!(for_good, denied > may_fail, "{denied} of {perspectives}: {verdict:?}");
                }
            }
        }
    }

    #[test]
    fn s27_only_perspectives_that_were_to_be_asked_count_and_each_once() {
        let quorum = Quorum::new(vec!["oslo".to_owned(), "rome".to_owned()], Some(0));
        let here = || Some(Verdict::Shown("here".to_owned()));
        for (verdicts, expected) in [
            (vec![("oslo", here()), ("rome", here())], true),
            (vec![("oslo", here()), ("oslo", here())], false),
            (vec![("oslo", here()), ("bern", here())], false),
            (vec![("oslo", here()), ("rome", None), ("rome", here())], false),
            (vec![], false),
        ] {
            let verdict = quorum.judge("here".to_owned(), &verdicts);
            assert_eq!(matches!(verdict, Verdict::Shown(_)), expected, "{verdicts:?}");
        }
    }

    #[test]
    fn s27_who_confirmed_is_recorded_and_who_did_not_is_counted() {
        let three = quorum(3);
        assert_eq!(verdict(&three, 2, 0), Verdict::Shown("here, confirmed by p0, p1".to_owned()));
        let Verdict::NoAnswer(ProblemType::Caa, text) = verdict(&three, 1, 1) else { panic!() };
        assert_eq!(
            text,
            "2 of 3 remote perspectives did not confirm what this server saw (1 may fail): 1 saw something else, 1 saw nothing; no"
        );
    }
}
