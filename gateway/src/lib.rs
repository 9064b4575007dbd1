//! certgate: the enrollment gateway daemon and its command line
