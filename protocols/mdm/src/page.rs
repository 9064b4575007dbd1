//! Challenges for those who cannot speak JSON to us: the page of Microsoft's NDES, which many management systems read, and the
//! webhook of Jamf Pro.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ca_backend::{Error, Fault, Reason, Refusal, Right};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::challenge::{Recipient, make_unbound, options_of, outstanding};
use crate::options::Charset;
use crate::problem::Problem;
use crate::template::check_value;
use crate::web::{Attempt, Call, answer_bytes};

/// The texts that readers look for, letter by letter, with the space after `<B>`.
const FULL: &str = "The password cache is full.";
const NOT_PERMITTED: &str =
    "You do not have sufficient permission to enroll with SCEP. Please contact your system administrator.";

/// The webhook of Jamf Pro.
#[derive(Deserialize, ToSchema)]
pub(crate) struct JamfEvent {
    webhook: JamfWebhook,
    #[serde(default, deserialize_with = "if_usable")]
    event: JamfProfile,
}

/// The profile that wants a challenge.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JamfProfile {
    #[serde(default, deserialize_with = "if_usable")]
    target_device: JamfDevice,
}

/// The device that gets it. Certificates are listed by the serial number, or by the identifier where there is none.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JamfDevice {
    #[serde(default, deserialize_with = "usable")]
    serial_number: Option<String>,
    #[serde(default, deserialize_with = "usable")]
    udid: Option<String>,
    /// The user to whom Jamf Pro assigned the device.
    #[serde(default, deserialize_with = "usable")]
    username: Option<String>,
}

/// What names nobody if it is not what it should be, which is no reason to refuse a challenge.
fn if_usable<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).unwrap_or_default())
}

/// A text that can name somebody. Whatever else stands there is no reason to refuse a challenge.
fn usable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().filter(|text| !text.is_empty() && check_value(text).is_ok()).map(str::to_owned))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JamfWebhook {
    /// `SCEPChallenge`.
    webhook_event: String,
}

/// The page of NDES with a new challenge, for the bearer of a token as the password of Basic authentication.
#[utoipa::path(get, path = "/certsrv/mscep_admin", tag = "challenges", operation_id = "ndesPage",
    responses((status = 200, content_type = "text/html"), (status = 401)))]
pub(crate) fn ndes(call: &Call<'_>) -> Attempt {
    let options = options_of(call)?;
    let caller = match call.any_caller() {
        Ok(caller) => caller,
        Err(Error::Refused(refusal)) if refusal.reason() == Reason::NotAuthenticated => {
            let mut response =
                answer_bytes(StatusCode::UNAUTHORIZED, "text/plain; charset=utf-8", "not authenticated\n");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"certgate\""));
            return Ok(response);
        }
        Err(error) => return Err(error),
    };
    // Readers tell these two from the text of a page that came with status 200.
    let body = if caller.require(Right::CreateChallenges).is_err() {
        NOT_PERMITTED.to_owned()
    } else if outstanding(call, &caller, options)? >= options.outstanding_max {
        FULL.to_owned()
    } else {
        // Who asks for the page does not say for whom.
        let challenge = make_unbound(call, &caller, Recipient::default(), "fetched from the NDES page")?;
        let (thumbprint, minutes) = (authority_thumbprint(call)?, options.lifetime_s.div_ceil(60));
        format!(
            "<P> To complete certificate enrollment for your network device you will need the following information: </P>\r\n\
             <P> The thumbprint (hash value) for the CA certificate is: <B> {thumbprint} </B> </P>\r\n\
             <P> The enrollment challenge password is: <B> {} </B> </P>\r\n\
             <P> This password can be used only once and will expire within {minutes} minutes. </P>\r\n\
             <P> Each enrollment requires a new challenge password. You can refresh this web page to obtain a new challenge password. </P>",
            challenge.reveal()
        )
    };
    let page = format!(
        "<HTML><Head><Title>Network Device Enrollment Service</Title></Head><Body>\r\n{body}\r\n</Body></HTML>\r\n"
    );
    Ok(match options.ndes_charset {
        Charset::Utf8 => answer_bytes(StatusCode::OK, "text/html; charset=utf-8", page),
        Charset::Utf16Le => {
            let units: Vec<u8> =
                std::iter::once(0xfeff).chain(page.encode_utf16()).flat_map(u16::to_le_bytes).collect();
            answer_bytes(StatusCode::OK, "text/html; charset=utf-16", units)
        }
    })
}

/// Answers the webhook `SCEPChallenge` of Jamf Pro with a new challenge, as text.
#[utoipa::path(post, path = "/jamf", tag = "challenges", operation_id = "jamfWebhook", request_body = JamfEvent,
    responses((status = 200, content_type = "text/plain"), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn jamf(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::CreateChallenges)?;
    let event: JamfEvent = call.body()?;
    if event.webhook.webhook_event != "SCEPChallenge" {
        return Err(Refusal::new(Reason::Unsupported, "only the event SCEPChallenge is answered").into());
    }
    let JamfDevice { serial_number, udid, username } = event.event.target_device;
    let recipient = Recipient { device: serial_number.or(udid), user: username };
    let challenge = make_unbound(call, &caller, recipient, "fetched by the webhook of Jamf Pro")?;
    Ok(answer_bytes(StatusCode::OK, "text/plain; charset=utf-8", challenge.reveal().to_owned()))
}

/// SHA-1 of the certificate of the authority behind the SCEP endpoint, as Windows writes it.
fn authority_thumbprint(call: &Call<'_>) -> Result<String, Error> {
    let missing = || Fault::TryLater { after_s: 60 };
    let scep = call.engine.endpoint(&options_of(call)?.scep_endpoint).ok_or_else(missing)?;
    let authority = call.engine.authorities()?.into_iter().find(|found| found.name == scep.authority);
    let certificate = authority.and_then(|authority| authority.certificate).ok_or_else(missing)?;
    let digits = hex::encode_upper(digest(&SHA1_FOR_LEGACY_USE_ONLY, &certificate));
    let groups: Vec<&str> = (0..digits.len()).step_by(8).filter_map(|at| digits.get(at..at + 8)).collect();
    Ok(groups.join(" "))
}
