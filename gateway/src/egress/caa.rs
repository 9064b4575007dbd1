//! CAA records as they were found.

/// The relevant record set of a name (RFC 8659 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaaSet {
    /// The name that has the records; empty if there are none up to the root.
    pub found_at: String,
    /// The properties in them.
    pub properties: Vec<Property>,
}

/// One property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Whether who does not understand it must not issue.
    pub critical: bool,
    /// Its tag.
    pub tag: String,
    /// Its value.
    pub value: String,
}
