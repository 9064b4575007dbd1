//! device-attest-01: the client's own request holds the proof, so it is judged at once (draft-ietf-acme-device-attest section 5).

use serde::Deserialize;

use crate::attestation::{self, Attested, Challenged};
use crate::authorization::Authorization;
use crate::call::AccountCall;
use crate::challenge::{ChallengeType, key_authorization};
use crate::error::{Attempt, ProblemType};
use crate::identifier::Identifier;
use crate::jwk::sha256;
use crate::jws::{decode, json};
use crate::ledger::Held;
use crate::limits::validation_failed;
use crate::reply::Reply;
use crate::site::Site;
use crate::validation::Verdict;

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "attObj")]
    object: Option<String>,
}

impl Site<'_> {
    /// Judges the attestation in a request. Apple devices finalize right after the reply, so it says how it ended.
    pub(crate) fn attest(
        &self,
        call: &AccountCall,
        mut authorization: Held<Authorization>,
        token: &str,
    ) -> Attempt<Reply> {
        let response: Response = json(call.object()?, "the response to the challenge cannot be read")?;
        let key_authorization = key_authorization(token, call.account.value.key.thumbprint());
        let challenged = Challenged { token, key_authorization: &key_authorization };
        let refused = |why: &str| Verdict::NotShown(ProblemType::BadAttestationStatement, why.to_owned());
        let verdict = match &response.object {
            None => refused("the device brings no attestation (attObj)"),
            Some(object) => {
                let makers = self.options.trusted_makers()?;
                match attestation::verify(&decode(object, "attObj")?, challenged, &makers, self.now) {
                    Ok(attested) => match is_of(&attested, &authorization.value.identifier) {
                        true => {
                            authorization.value.attested_key = Some(sha256(&attested.public_key));
                            Verdict::Shown(format!(
                                "device-attest-01, an attestation of the format {}",
                                attested.format
                            ))
                        }
                        false => refused("the attestation is of another device than the identifier"),
                    },
                    Err(why) => refused(why),
                }
            }
        };
        authorization.value.decide(ChallengeType::DeviceAttest01, self.now, &verdict);
        let change = self.ledger.change().spend(&call.nonce).update_authorization(&authorization)?;
        let failed = match &verdict {
            Verdict::Shown(_) => None,
            Verdict::NotShown(..) | Verdict::NoAnswer(..) => {
                validation_failed(self.ledger, self.now, &self.options, &authorization.value)?
            }
        };
        failed.into_iter().fold(change, |change, used| used.count(change)).commit()?;
        self.challenge_reply(&authorization.value, ChallengeType::DeviceAttest01)
    }
}

fn is_of(attested: &Attested, identifier: &Identifier) -> bool {
    let Identifier::Device(wanted) = identifier else { return false };
    attested.identities.iter().any(|identity| identity.is(wanted))
}
