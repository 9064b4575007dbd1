//! A small DNS server on loopback, over UDP, for TXT records and addresses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, TXT};
use hickory_resolver::proto::rr::{RData, Record};
use tempfile::TempDir;

/// The server, and the file that says what it answers. It runs until the test's process ends.
pub struct DnsServer {
    /// Where it answers.
    pub address: SocketAddr,
    directory: TempDir,
}

impl DnsServer {
    /// A server without records.
    #[must_use]
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self { address: socket.local_addr().unwrap(), directory: TempDir::new().unwrap() };
        let zone = server.zone();
        std::thread::spawn(move || {
            let mut question = [0; 4096];
            loop {
                let (octets, from) = socket.recv_from(&mut question).unwrap();
                socket.send_to(&answer(&question[..octets], &zone), from).unwrap();
            }
        });
        server
    }

    /// The file with a line `NAME VALUE` for each record, the name in lower case and with its last dot. A value that is an IPv4
    /// address is an address, any other a text. It is read for each question, so that other programs may change it; while it is not
    /// there, there are no records.
    #[must_use]
    pub fn zone(&self) -> PathBuf {
        self.directory.path().join("zone")
    }
}

fn answer(question: &[u8], zone: &Path) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let name = query.name().to_string().to_lowercase();
    let records = std::fs::read_to_string(zone).unwrap_or_default();
    let mut values = records.lines().filter_map(|line| line.strip_prefix(&name)?.strip_prefix(' ')).peekable();
    if values.peek().is_none() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    let records = values.map(|value| match value.parse::<Ipv4Addr>() {
        Ok(address) => RData::A(A(address)),
        Err(_) => RData::TXT(TXT::new(vec![value.to_owned()])),
    });
    for record in records.filter(|record| record.record_type() == query.query_type()) {
        answer.add_answer(Record::from_rdata(query.name().clone(), 60, record));
    }
    answer.add_query(query);
    answer.to_vec().unwrap()
}
