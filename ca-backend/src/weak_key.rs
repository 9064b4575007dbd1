//! Keys whose private half others can find: by how they were made, or because it is known.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use num_bigint::BigUint;

use crate::error::{Reason, Refusal};
use crate::subject_key::SubjectKey;

/// Rounds of Fermat's method; each one finds primes that differ by a little more.
const FERMAT_ROUNDS: u32 = 100;

/// No prime factor of a modulus may be below this bound.
const SMALL_FACTOR_BOUND: u32 = 4096;

/// Refuses a modulus that is easy to factor: small factors, primes close to each other, or made by the flawed generator of ROCA.
pub(crate) fn refuse_weak_modulus(modulus: &BigUint) -> Result<(), Refusal> {
    if has_small_factor(modulus) {
        return Err(weak("the RSA modulus has a small factor"));
    }
    if is_roca(modulus) {
        return Err(weak("the RSA key was made by a flawed generator (CVE-2017-15361, ROCA)"));
    }
    if has_close_primes(modulus) {
        return Err(weak("the primes of the RSA key are too close to each other"));
    }
    Ok(())
}

/// Trial division by batches of primes: one long division for as many primes as fit into 64 bits.
fn has_small_factor(modulus: &BigUint) -> bool {
    SMALL_PRIMES.iter().any(|(product, primes)| {
        let remainder = remainder(modulus, *product);
        primes.iter().any(|prime| remainder.is_multiple_of(*prime))
    })
}

/// The primes below [`SMALL_FACTOR_BOUND`] in batches, each with its product.
static SMALL_PRIMES: LazyLock<Vec<(u64, Vec<u64>)>> = LazyLock::new(|| {
    let mut primes: Vec<u64> = Vec::new();
    let mut batches = Vec::new();
    let (mut product, mut batch) = (1u64, Vec::new());
    for candidate in 2..u64::from(SMALL_FACTOR_BOUND) {
        let mut divisors = primes.iter().take_while(|prime| *prime * *prime <= candidate);
        if divisors.any(|prime| candidate.is_multiple_of(*prime)) {
            continue;
        }
        primes.push(candidate);
        match product.checked_mul(candidate) {
            Some(larger) => product = larger,
            None => {
                batches.push((product, std::mem::take(&mut batch)));
                product = candidate;
            }
        }
        batch.push(candidate);
    }
    batches.push((product, batch));
    batches
});

/// The odd primes of the ROCA fingerprint: those that divide every primorial that the flawed generator used.
const ROCA_PRIMES: [u64; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the modulus has the mark of ROCA (Nemec et al., "The Return of Coppersmith's Attack", section 3).
///
/// The flawed generator makes primes k * M + (65537^a mod M) with M a product of the first primes, so the modulus too is a power of
/// 65537 modulo each of them. A sound key has all these marks with a probability of about 2^-27.
fn is_roca(modulus: &BigUint) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let wanted = remainder(modulus, *prime);
        let mut power = 1;
        // The powers repeat after at most prime - 1 steps.
        (1..*prime).any(|_| {
            power = power * 65537 % prime;
            power == wanted
        })
    })
}

/// Fermat's method: n = a^2 - b^2 with `a` from the square root of n upwards.
fn has_close_primes(modulus: &BigUint) -> bool {
    let root = modulus.sqrt();
    let a = if &root * &root == *modulus { root } else { root + 1u32 };
    let mut b_squared = &a * &a - modulus;
    let mut step = (a << 1u32) + 1u32; // (a + 1)^2 - a^2
    for _ in 0..FERMAT_ROUNDS {
        if is_square(&b_squared) {
            return true;
        }
        b_squared += &step;
        step += 2u32;
    }
    false
}

/// Whether a number is a square; most are told apart by a remainder, without a root.
fn is_square(number: &BigUint) -> bool {
    // 64 * 63 * 65 * 11: about one number in 140 has a square remainder by each factor.
    let residue = remainder(number, 64 * 63 * 65 * 11);
    let may_be_square = [64, 63, 65, 11].iter().all(|factor| {
        let wanted = residue % factor;
        (0..*factor).any(|root| root * root % factor == wanted)
    });
    may_be_square && {
        let root = number.sqrt();
        &root * &root == *number
    }
}

fn remainder(number: &BigUint, divisor: u64) -> u64 {
    // A remainder is below its divisor, so it always fits.
    u64::try_from(number % divisor).unwrap_or_default()
}

/// Every encoding of the points of small order on edwards25519, without the sign bit.
const SMALL_ORDER_POINTS: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000", // order 4
    "0100000000000000000000000000000000000000000000000000000000000000", // order 1
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, not reduced
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, not reduced
];

/// Refuses an Ed25519 point of small order: with such a key, anybody can make signatures that verify.
pub(crate) fn refuse_small_order(mut point: [u8; 32]) -> Result<(), Refusal> {
    if let Some(last) = point.last_mut() {
        *last &= 0x7f; // the sign of x
    }
    let point = hex::encode(point);
    if SMALL_ORDER_POINTS.contains(&point.as_str()) {
        return Err(weak("the Ed25519 key is a point of small order"));
    }
    Ok(())
}

/// SHA-256 fingerprints of the keys whose private half is published, one per line with its source.
const PUBLISHED_KEYS: &str = include_str!("weak_key/published_keys.txt");

/// Keys that nobody may have certified, by [`SubjectKey::fingerprint`].
///
/// It knows the example keys of well-known standards. Operators add what they learn: keys of certificates revoked for compromise, and
/// lists such as that of the Debian generator of 2008.
#[derive(Clone)]
pub(crate) struct BlockedKeys(BTreeSet<[u8; 32]>);

impl BlockedKeys {
    /// The published keys and those that the operator adds, each given as SHA-256 of its SubjectPublicKeyInfo.
    pub(crate) fn load(extra: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(published_keys().chain(extra).collect())
    }

    /// Refuses a blocked key.
    ///
    /// # Errors
    /// `BadKey` if the key is on the list.
    pub(crate) fn check(&self, key: &SubjectKey) -> Result<(), Refusal> {
        if self.0.contains(&key.fingerprint()) {
            return Err(
                weak("the private half of this key is known to others").with_private(format!("{key:?} is blocked"))
            );
        }
        Ok(())
    }
}

impl std::fmt::Debug for BlockedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockedKeys({} keys)", self.0.len())
    }
}

fn published_keys() -> impl Iterator<Item = [u8; 32]> {
    PUBLISHED_KEYS.lines().filter_map(|line| {
        let (fingerprint, _source) = line.split_once(' ')?;
        <[u8; 32]>::try_from(hex::decode(fingerprint).ok()?).ok()
    })
}

fn weak(public: &str) -> Refusal {
    Refusal::new(Reason::BadKey, format!("{public}; make a new key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The RSA-2048 factoring challenge: a sound modulus that nobody holds the key of.
    const SOUND: &str = "25195908475657893494027183240048398571429282126204032027777137836043662020707595556264018525880784406918290641249515\
                         08218929855914917618450280848912007284499268739280728777673597141834727026189637501497182469116507761337985909570009\
                         73304597488084284017974291006424586918171951187461215151726546322822168699875491824224336372590851418654620435767984\
                         23387184774447920739934236584823824281198163815010674810451660377306056201619676256133844143603833904414952634432190\
                         11465754445417842402092461651572335077870774981712577246796292638635637328991215483143816789988504044536402352738195\
                         1378636564391212010397122822120720357";

    fn number(decimal: &str) -> BigUint {
        decimal.replace(' ', "").parse().unwrap()
    }

    #[test]
    fn s06_a_sound_modulus_passes() {
        let modulus = number(SOUND);
        assert_eq!(modulus.bits(), 2048);
        refuse_weak_modulus(&modulus).unwrap();
    }

    #[test]
    fn s06_each_weakness_is_found_by_the_check_that_is_for_it() {
        let sound = number(SOUND);
        assert!(!has_small_factor(&sound) && !is_roca(&sound) && !has_close_primes(&sound));
        for factor in [2u32, 3, 1021, 4093] {
            assert!(has_small_factor(&(&sound * factor)), "{factor}");
        }
        assert!(!has_small_factor(&(&sound * 4099u32)), "the next prime is above the bound");
    }

    #[test]
    fn s06_fermat_takes_a_hundred_rounds() {
        // n = a^2 - b^2 is found in the round in which `a` is reached.
        let b = BigUint::from(1u32) << 500u32;
        let in_round = |rounds: u32| {
            // b^2 = 2 * root * rounds, roughly, so root follows from the wanted number of rounds.
            let root = (&b * &b) / (2 * rounds);
            let a = &root + rounds;
            has_close_primes(&((&a - &b) * (&a + &b)))
        };
        assert!(in_round(1) && in_round(50) && in_round(98));
        assert!(!in_round(103) && !in_round(1000));
    }

    #[test]
    fn squares_are_told_from_neighbours() {
        for root in [0u32, 1, 2, 7, 12_345, u32::MAX] {
            let square = BigUint::from(root) * root;
            assert!(is_square(&square), "{root}");
            assert!(root < 2 || !is_square(&(square + 1u32)), "{root}");
        }
    }

    #[test]
    fn s06_every_line_of_the_published_keys_is_read() {
        let lines = PUBLISHED_KEYS.lines().filter(|line| !line.starts_with('#')).count();
        assert!(lines > 10);
        assert_eq!(published_keys().count(), lines);
    }
}
