//! Constitutional AI on the server.
