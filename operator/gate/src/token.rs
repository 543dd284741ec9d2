//! The bot token: read from a file, never printed.

use std::fmt;
use std::path::Path;

/// A bot token, `<bot id>:<secret>`. It implements neither `Debug` nor `Display` of its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    bot_id: i64,
}

/// Why a token file was not understood. Holds nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read.
    #[error("the token file {path} cannot be read: {source}")]
    Unreadable {
        /// The path as configured.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The content is not a bot token.
    #[error(
        "the text does not look like a bot token (<digits>:<secret>): copy it from @BotFather without anything around it"
    )]
    Malformed,
}

// === impl Token ===

impl Token {
    /// Takes a token from its text; white space around it is dropped.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let (id, secret) = text.split_once(':').ok_or(TokenError::Malformed)?;
        let bot_id: i64 = id.parse().map_err(|_| TokenError::Malformed)?;
        // The server's own limits; anything that could change the meaning of a URL path is not a token.
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if bot_id <= 0
            || secret.is_empty()
            || text.len() > 80
            || !secret.chars().all(legal)
            || !id.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(TokenError::Malformed);
        }
        Ok(Self { text: text.to_owned(), bot_id })
    }

    /// Reads a token from a file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// The number before the colon: the bot's user id at Telegram, no secret.
    pub fn bot_id(&self) -> i64 {
        self.bot_id
    }

    /// The secret itself, for the one place that needs it. Never log what this returns.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}:***)", self.bot_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_print_its_secret() {
        let token = Token::parse(" 42:sEcReT_part-1\n").unwrap();
        assert_eq!(token.bot_id(), 42);
        assert_eq!(token.expose(), "42:sEcReT_part-1");
        assert_eq!(format!("{token:?}"), "Token(42:***)");
    }

    #[test]
    fn what_is_not_a_token_is_refused_without_quoting_it() {
        for text in ["", "nothing", "0:abc", "-1:abc", "+1:abc", "1:", "1:a/b", "1:a b", "x1:abc", "1:%2f"] {
            let error = Token::parse(text).unwrap_err().to_string();
            assert!(text.len() < 3 || !error.contains(text), "{text:?} is in the message {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Token::read(Path::new("/nowhere/token")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"));
    }
}
