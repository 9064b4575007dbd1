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

/// Trial division from the top of a tree: by products as long as a prime of the usual key, their remainders by products of 64 bits,
/// and those by the primes. It takes half the time of dividing the whole modulus each time, and every request with an RSA key pays it.
fn has_small_factor(modulus: &BigUint) -> bool {
    SMALL_PRIMES.iter().any(|group| {
        let below_group = modulus % &group.product;
        group.batches.iter().any(|(product, primes)| {
            let below_batch = remainder(&below_group, *product);
            primes.iter().any(|prime| below_batch.is_multiple_of(*prime))
        })
    })
}

/// Batches of primes whose product fits into 64 bits, each beside it, and the product of all batches.
struct PrimeGroup {
    product: BigUint,
    batches: Vec<(u64, Vec<u64>)>,
}

/// Batches in a group: products of 1024 bits.
const BATCHES_PER_GROUP: usize = 16;

/// The primes below [`SMALL_FACTOR_BOUND`].
static SMALL_PRIMES: LazyLock<Vec<PrimeGroup>> = LazyLock::new(|| {
    let group = |batches: &[(u64, Vec<u64>)]| PrimeGroup {
        product: batches.iter().map(|(product, _)| BigUint::from(*product)).product(),
        batches: batches.to_vec(),
    };
    prime_batches().chunks(BATCHES_PER_GROUP).map(group).collect()
});

fn prime_batches() -> Vec<(u64, Vec<u64>)> {
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
}

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

/// Fermat's method: n = a^2 - b^2 with `a` from the square root of n upwards. Most numbers are no square by their remainder alone,
/// which is known without the number.
fn has_close_primes(modulus: &BigUint) -> bool {
    let root = modulus.sqrt();
    let first = if &root * &root == *modulus { root } else { root + 1u32 };
    let below_first = remainder(&first, SQUARE_PERIOD);
    let below_modulus = remainder(modulus, SQUARE_PERIOD);
    (0..FERMAT_ROUNDS).any(|round| {
        let a = (below_first + u64::from(round)) % SQUARE_PERIOD;
        let b_squared = (a * a + SQUARE_PERIOD - below_modulus) % SQUARE_PERIOD;
        may_be_square(b_squared) && {
            let a = &first + round;
            let b_squared = &a * &a - modulus;
            let root = b_squared.sqrt();
            &root * &root == b_squared
        }
    })
}

/// Few remainders by each of these are those of squares; about one number in 400 has such a remainder by all of them.
const SQUARE_FACTORS: [u64; 6] = [64, 63, 65, 11, 17, 19];

/// Their product. Its square fits into 64 bits.
const SQUARE_PERIOD: u64 = 64 * 63 * 65 * 11 * 17 * 19;

/// For each of [`SQUARE_FACTORS`], whether a remainder is that of a square.
static SQUARES: LazyLock<Vec<(u64, Vec<bool>)>> = LazyLock::new(|| {
    let is_square = |factor, remainder| (0..factor).any(|root| root * root % factor == remainder);
    let squares = |factor| (factor, (0..factor).map(|remainder| is_square(factor, remainder)).collect());
    SQUARE_FACTORS.map(squares).into()
});

/// Whether a square has this remainder by [`SQUARE_PERIOD`].
fn may_be_square(residue: u64) -> bool {
    SQUARES.iter().all(|(factor, squares)| {
        usize::try_from(residue % factor).is_ok_and(|remainder| squares.get(remainder) == Some(&true))
    })
}

/// Long division without its quotient, digit by digit.
fn remainder(number: &BigUint, divisor: u64) -> u64 {
    number.iter_u64_digits().rev().fold(0, |above, digit| {
        let part = (u128::from(above) << u64::BITS) | u128::from(digit);
        // A remainder is below its divisor, so it always fits.
        u64::try_from(part % u128::from(divisor)).unwrap_or_default()
    })
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
        let primes: Vec<u64> = prime_batches().into_iter().flat_map(|(_, primes)| primes).collect();
        assert_eq!((primes.len(), primes.first(), primes.last()), (564, Some(&2), Some(&4093)));
        for factor in primes {
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
    fn no_square_is_passed_over_and_few_other_numbers_are_looked_at() {
        for root in (0..1000u32).chain([12_345, u32::MAX]) {
            let square = BigUint::from(root) * root;
            assert!(may_be_square(remainder(&square, SQUARE_PERIOD)), "{root}");
        }
        let looked_at = (0..100_000).filter(|number| may_be_square(*number)).count();
        assert!((1..1000).contains(&looked_at), "{looked_at} of 100,000");
    }

    #[test]
    fn a_remainder_is_that_of_the_whole_number() {
        let modulus = number(SOUND);
        for divisor in [1, 3, 167, SQUARE_PERIOD, u64::MAX] {
            assert_eq!(BigUint::from(remainder(&modulus, divisor)), &modulus % divisor, "{divisor}");
        }
        assert_eq!(remainder(&BigUint::from(0u32), 7), 0);
    }

    #[test]
    fn s06_every_line_of_the_published_keys_is_read() {
        let lines = PUBLISHED_KEYS.lines().filter(|line| !line.starts_with('#')).count();
        assert!(lines > 10);
        assert_eq!(published_keys().count(), lines);
    }
}
