//! A DNS server on loopback, over UDP, that answers each question as a test says: also wrongly, or never.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, NULL, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// What a server says to a question.
pub enum Answer {
    /// These records; none means that the name exists and has no such record.
    Records(Vec<RData>),
    /// There is no such name.
    NoSuchName,
    /// The server cannot say.
    Failure,
    /// Nothing.
    Silence,
}

/// The server. It runs until the test's process ends.
pub struct NameServer {
    /// Where it answers.
    pub address: SocketAddr,
    asked: Arc<Mutex<HashMap<(String, RecordType), usize>>>,
}

impl NameServer {
    /// Answers a name in lower case without its last dot, a kind of record, and how often that was asked before.
    #[must_use]
    pub fn start(answers: impl Fn(&str, RecordType, usize) -> Answer + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self { address: socket.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        std::thread::spawn(move || {
            let mut question = [0; 4096];
            loop {
                let (octets, from) = socket.recv_from(&mut question).unwrap();
                let question = Message::from_vec(&question[..octets]).unwrap();
                let query = question.queries[0].clone();
                let name = query.name().to_string().to_lowercase().trim_end_matches('.').to_owned();
                let times = {
                    let mut asked = asked.lock().unwrap();
                    let times = asked.entry((name.clone(), query.query_type())).or_default();
                    *times += 1;
                    *times - 1
                };
                if let Some(answer) = message(&question, answers(&name, query.query_type(), times)) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        server
    }

    /// How often it was asked for this.
    #[must_use]
    pub fn asked(&self, name: &str, kind: RecordType) -> usize {
        self.asked.lock().unwrap().get(&(name.to_owned(), kind)).copied().unwrap_or_default()
    }
}

fn message(question: &Message, answer: Answer) -> Option<Vec<u8>> {
    let query = question.queries[0].clone();
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    match answer {
        Answer::Records(records) => {
            for record in records {
                message.add_answer(Record::from_rdata(query.name().clone(), 60, record));
            }
        }
        Answer::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Answer::Failure => message.metadata.response_code = ResponseCode::ServFail,
        Answer::Silence => return None,
    }
    message.add_query(query);
    Some(message.to_vec().unwrap())
}

/// An A or AAAA record.
#[must_use]
pub fn address(address: &str) -> RData {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

/// A TXT record.
#[must_use]
pub fn text(value: &str) -> RData {
    RData::TXT(TXT::new(vec![value.to_owned()]))
}

/// A CNAME record.
#[must_use]
pub fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(Name::from_ascii(format!("{target}.")).unwrap()))
}

/// A CAA record (RFC 8659 section 4.1), octet by octet, so that it can say anything.
#[must_use]
pub fn caa(flags: u8, tag: &str, value: &str) -> RData {
    let octets = [&[flags, u8::try_from(tag.len()).unwrap()], tag.as_bytes(), value.as_bytes()].concat();
    RData::Unknown { code: RecordType::CAA, rdata: NULL::with(octets) }
}
