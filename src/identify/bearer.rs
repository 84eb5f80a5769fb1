//! Bearer tokens (RFC 6750), kept as SHA-256 digests only.
//!
//! A token of high entropy needs no slow hash. It is found by the first bytes of its digest and
//! confirmed by comparing the rest in constant time; what is longer than 4 KiB is not even hashed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use toml::Spanned;

use super::{
    Identify, IdentifyError, Identifying, Identity, RequestHead,
    credentials::{self, Sha256Digest},
    recent::Recent,
};
use crate::{
    Name, observe,
    reload::{self, Applied},
};

/// A token's digest, and whose it is.
type Known = (Sha256Digest, Arc<Identity>);

/// The first bytes of a digest.
type Prefix = [u8; 8];

/// Tokens that callers send as `Authorization: Bearer <token>` (RFC 6750).
///
/// ```
/// use std::sync::Arc;
/// use tower_credits::{Account, BearerTokens, Identity};
///
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?);
/// let tokens = BearerTokens::new().with("a-long-random-token", alice);
/// # Ok::<(), tower_credits::NameError>(())
/// ```
///
/// A file holds digests only (`printf %s TOKEN | sha256sum`):
///
/// ```toml
/// [[tokens]]
/// sha256 = "d1d9b3f2b4ea37a8a0bd0e0ba4af4dffdb15ef2dfbc5dbd9d41a4fb2e1d5ed2f"
/// account = "user:alice"
/// tier = "free"
/// subject = "alice"       # who stands on the usage lines; default: the account
/// organisations = { acme = "enterprise" }   # that she may bill, with their tiers
/// ```
#[derive(Clone, Default)]
pub struct BearerTokens {
    shared: Arc<Shared>,
    /// Where browsers keep their token.
    cookie: Option<Name>,
}

#[derive(Default)]
struct Shared {
    table: ArcSwap<Table>,
    /// What was revoked while this process runs stays revoked, whatever a file says that is read
    /// again.
    revoked: Mutex<HashSet<Sha256Digest>>,
}

/// Tokens by the first bytes of their digests.
#[derive(Clone, Default)]
struct Table {
    known: HashMap<Prefix, Vec<Known>>,
    /// Those that came lately. Each table has its own, so that nothing in it is older than the
    /// table.
    recent: Recent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTokens {
    tokens: Option<Vec<RawToken>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    sha256: Spanned<String>,
    account: Spanned<String>,
    tier: Spanned<String>,
    subject: Option<Spanned<String>>,
    #[serde(default)]
    organisations: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl BearerTokens {
    /// No tokens: nobody is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token. Only its digest is kept. What comes out is a list of its own: it follows no
    /// file and no [`revoke`](Self::revoke) of the one before.
    #[must_use]
    pub fn with(self, token: &str, identity: Identity) -> Self {
        let mut table = match Arc::try_unwrap(self.shared) {
            Ok(shared) => Arc::unwrap_or_clone(shared.table.into_inner()),
            Err(shared) => Table::clone(&shared.table.load()),
        };
        table.add(credentials::digest(token.as_bytes()), identity);
        Self {
            shared: Arc::new(Shared {
                table: ArcSwap::from_pointee(table),
                revoked: Mutex::default(),
            }),
            cookie: self.cookie,
        }
    }

    /// Takes a token also from this cookie, where there is no `Authorization` field: for browsers.
    /// A cookie pays only for requests of pages of the same origin (`Sec-Fetch-Site`, `Origin`);
    /// others are denied with 403. The billing page's sign-in sets it. Where you set it yourself,
    /// set it `HttpOnly`, `Secure` and `SameSite=Strict` all the same. Call it `__Host-` and
    /// something: other hosts of your domain cannot set such a cookie.
    #[must_use]
    pub fn or_cookie(self, name: Name) -> Self {
        Self { cookie: Some(name), ..self }
    }

    /// Forgets a token, here and now, in all clones; answers whether it was known. While this
    /// process runs it stays forgotten, also where a [watched](Self::watch) file still has it: take
    /// it out there too.
    pub fn revoke(&self, token: &str) -> bool {
        let digest: Sha256Digest = credentials::digest(token.as_bytes());
        let mut revoked = self.shared.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        // Also where it is not known here and now: a file may be about to bring it.
        revoked.insert(digest);
        let known = self.shared.table.load().find(&digest).is_some();
        if known {
            self.shared.put(&revoked, Table::clone(&self.shared.table.load()));
        }
        known
    }

    /// Reads tokens from a file.
    ///
    /// # Errors
    ///
    /// [`TokensError`] with the file, the line, and what to write instead.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokensError> {
        let path = path.as_ref();
        let text = reload::read(path).map_err(|error| unreadable(path, error))?;
        Self::from_toml(&text).map_err(|error| TokensError { file: Some(path.to_owned()), ..error })
    }

    /// Reads tokens from a file and follows its changes: what is taken out of it stops working
    /// within two seconds. A file that became wrong changes nothing and is logged, with its line
    /// and what to write instead; so does one without tokens, unless it says `tokens = []`.
    ///
    /// The file is looked at, more than once a second, by a thread of its own, which ends when the
    /// last clone is gone.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file); also where no thread can be started.
    pub fn watch(path: impl Into<PathBuf>) -> Result<Self, TokensError> {
        let path = path.into();
        let text = reload::read(&path).map_err(|error| unreadable(&path, error))?;
        let in_file = |error| TokensError { file: Some(path.clone()), ..error };
        let tokens = Self::from_toml(&text).map_err(in_file)?;
        let (alive, watched) = (Arc::downgrade(&tokens.shared), Arc::downgrade(&tokens.shared));
        let file = path.clone();
        let apply = move |content: std::io::Result<String>| {
            let Some(shared) = watched.upgrade() else { return Applied::Stop };
            let read = content.map_err(|error| unreadable(&file, error));
            let table = read.and_then(|text| {
                Table::parse(&text)
                    .map_err(|error| TokensError { file: Some(file.clone()), ..error })
            });
            match table {
                Ok(table) => {
                    let revoked = shared.revoked.lock().unwrap_or_else(PoisonError::into_inner);
                    let before = shared.table.load().len();
                    shared.put(&revoked, table);
                    observe::reloaded("tokens", &file, Some((before, shared.table.load().len())));
                }
                Err(error) => observe::not_reloaded("tokens", &error),
            }
            Applied::Done
        };
        reload::follow(path.clone(), &text, move || alive.strong_count() > 0, apply).map_err(
            |source| TokensError {
                file: Some(path),
                line: None,
                reason: "cannot be watched: no thread could be started".to_owned(),
                source: Some(source),
            },
        )?;
        Ok(tokens)
    }

    /// Reads tokens from TOML.
    ///
    /// # Errors
    ///
    /// [`TokensError`] with the line, and what to write instead.
    pub fn from_toml(text: &str) -> Result<Self, TokensError> {
        let table = ArcSwap::from_pointee(Table::parse(text)?);
        Ok(Self { shared: Arc::new(Shared { table, revoked: Mutex::default() }), cookie: None })
    }
}

impl Shared {
    /// Puts a table in force, less what was revoked.
    fn put(&self, revoked: &HashSet<Sha256Digest>, mut table: Table) {
        for digest in revoked {
            table.remove(digest);
        }
        self.table.store(Arc::new(table));
    }
}

impl Table {
    fn parse(text: &str) -> Result<Self, TokensError> {
        let wrong = |at: Option<usize>, reason: String| {
            let line =
                at.and_then(|at| text.get(..at)).map(|before| before.matches('\n').count() + 1);
            TokensError { file: None, line, reason, source: None }
        };
        // What the parser itself says may quote the file, and a token pasted in place of its digest
        // must not reach a log.
        let raw: RawTokens = toml::from_str(text).map_err(|error| {
            let reason = "not a list of tokens: each [[tokens]] has sha256, account, tier and, if you like, subject, all of them strings, and organisations, a table of strings";
            wrong(error.span().map(|span| span.start), reason.to_owned())
        })?;
        // A file that is being written, or was cut short, must not take everybody's access away.
        let tokens = raw.tokens.ok_or_else(|| {
            wrong(
                None,
                "no tokens: write [[tokens]] for each, or `tokens = []` if nobody is to be known"
                    .to_owned(),
            )
        })?;
        let mut table = Self::default();
        for token in tokens {
            let refused = |field: &Spanned<String>, reason: &dyn fmt::Display| {
                wrong(Some(field.span().start), reason.to_string())
            };
            let digest = credentials::parse_digest(token.sha256.as_ref()).ok_or_else(|| {
                refused(
                    &token.sha256,
                    &"sha256: write 64 hexadecimal digits, as `printf %s TOKEN | sha256sum` prints",
                )
            })?;
            let account = token
                .account
                .as_ref()
                .parse()
                .map_err(|error| refused(&token.account, &format!("account: {error}")))?;
            let tier = token
                .tier
                .as_ref()
                .parse()
                .map_err(|error| refused(&token.tier, &format!("tier: {error}")))?;
            let subject = token.subject.as_ref().unwrap_or(&token.account);
            let subject: Name = subject
                .as_ref()
                .parse()
                .map_err(|error| refused(subject, &format!("subject: {error}")))?;
            let mut identity = Identity::new(subject, account, tier);
            for (id, tier) in &token.organisations {
                let tier = tier
                    .as_ref()
                    .parse()
                    .map_err(|error| refused(tier, &format!("an organisation's tier: {error}")))?;
                identity = identity
                    .member_of(id.as_ref(), tier)
                    .map_err(|error| refused(id, &format!("an organisation: {error}")))?;
            }
            table.add(digest, identity);
        }
        Ok(table)
    }

    fn len(&self) -> usize {
        self.known.values().map(Vec::len).sum()
    }

    fn add(&mut self, digest: Sha256Digest, identity: Identity) {
        self.remove(&digest);
        self.known.entry(prefix(&digest)).or_default().push((digest, Arc::new(identity)));
    }

    fn remove(&mut self, digest: &Sha256Digest) {
        self.recent = Recent::default();
        if let Some(same_prefix) = self.known.get_mut(&prefix(digest)) {
            same_prefix.retain(|(known, _)| known != digest);
        }
    }

    fn find(&self, digest: &Sha256Digest) -> Option<Arc<Identity>> {
        let same_prefix = self.known.get(&prefix(digest))?;
        same_prefix
            .iter()
            .find(|(known, _)| known.ct_eq(digest).into())
            .map(|(_, identity)| Arc::clone(identity))
    }
}

impl Identify for BearerTokens {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let table = self.shared.table.load();
        let find = |token| {
            table
                .recent
                .find(token, || table.find(&credentials::digest(token)))
                .ok_or(IdentifyError::Invalid)
        };
        Identifying::Ready(credentials::token_of(head, self.cookie.as_ref()).and_then(find))
    }

    fn cookie(&self) -> Option<&Name> {
        self.cookie.as_ref()
    }
}

impl fmt::Debug for BearerTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerTokens").field("tokens", &self.shared.table.load().len()).finish()
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> TokensError {
    TokensError {
        file: Some(path.to_owned()),
        line: None,
        reason: format!("cannot be read: {source}"),
        source: Some(source),
    }
}

fn prefix(digest: &Sha256Digest) -> Prefix {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}

/// Why tokens were refused: where, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{}{}{reason}", .file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default(), .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct TokensError {
    file: Option<PathBuf>,
    line: Option<usize>,
    reason: String,
    #[source]
    source: Option<std::io::Error>,
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, COOKIE};

    use super::*;
    use crate::Account;

    fn tokens() -> BearerTokens {
        let alice = Identity::new(
            "alice".parse().unwrap(),
            Account::user("alice").unwrap(),
            "free".parse().unwrap(),
        );
        BearerTokens::new().with("s3cret", alice)
    }

    fn ask(values: &[&[u8]]) -> Result<String, String> {
        let mut request = http::Request::new(());
        for value in values {
            request
                .headers_mut()
                .append(AUTHORIZATION, http::HeaderValue::from_bytes(value).unwrap());
        }
        match tokens().identify(RequestHead::from(&request)) {
            Identifying::Ready(answer) => answer
                .map(|identity| identity.account.to_string())
                .map_err(|error| error.to_string()),
            Identifying::Later(_) => unreachable!(),
        }
    }

    #[test]
    fn only_the_one_right_token_is_known() {
        assert_eq!(ask(&[b"Bearer s3cret"]), Ok("user:alice".into()));
        assert_eq!(ask(&[b"bearer  s3cret "]), Ok("user:alice".into()));
        assert_eq!(ask(&[]), Err("no credentials".into()));
        let long = [b"Bearer ".as_slice(), &[b'x'; 100 << 10]].concat();
        let wrong: [&[&[u8]]; 8] = [
            &[b"Bearer s3creT"],
            &[b"Bearer "],
            &[b"Bearer"],
            &[b""],
            &[b"Basic s3cret"],
            &[b"Bearer \xff\xfe"],
            &[&long],
            &[b"Bearer s3cret", b"Bearer s3cret"],
        ];
        for values in wrong {
            assert_eq!(ask(values), Err("unknown credentials".into()));
        }
    }

    #[test]
    fn a_token_that_came_lately_is_gone_when_it_is_revoked_or_given_to_somebody_else() {
        let ask = |tokens: &BearerTokens| {
            let request =
                http::Request::builder().header(AUTHORIZATION, "Bearer s3cret").body(()).unwrap();
            match tokens.identify(RequestHead::from(&request)) {
                Identifying::Ready(answer) => {
                    answer.ok().map(|identity| identity.subject.to_string())
                }
                Identifying::Later(_) => unreachable!(),
            }
        };
        let tokens = tokens();
        for _ in 0..2 {
            assert_eq!(ask(&tokens).as_deref(), Some("alice"));
        }
        let bob = Identity::new(
            "bob".parse().unwrap(),
            Account::user("bob").unwrap(),
            "free".parse().unwrap(),
        );
        assert_eq!(ask(&tokens.clone().with("s3cret", bob)).as_deref(), Some("bob"));
        assert_eq!(ask(&tokens).as_deref(), Some("alice"), "the list before is another");
        assert!(tokens.revoke("s3cret"));
        assert_eq!(ask(&tokens), None);
    }

    #[test]
    fn a_cookie_counts_where_it_is_named_and_for_the_same_origin() {
        let tokens = tokens().or_cookie("credits".parse().unwrap());
        let ask = |cookies: &[&str], site: &str, authorization: Option<&str>| {
            let request = http::Request::post("/").header("sec-fetch-site", site);
            let request =
                cookies.iter().fold(request, |request, cookie| request.header(COOKIE, *cookie));
            let request = authorization
                .into_iter()
                .fold(request, |request, value| request.header(AUTHORIZATION, value));
            match tokens.identify(RequestHead::from(&request.body(()).unwrap())) {
                Identifying::Ready(answer) => answer
                    .map(|identity| identity.subject.to_string())
                    .map_err(|error| error.to_string()),
                Identifying::Later(_) => unreachable!(),
            }
        };
        let alice = Ok("alice".to_owned());
        assert_eq!(ask(&["a=b; credits=s3cret; c=d"], "same-origin", None), alice);
        assert_eq!(ask(&["a=b", "credits=\"s3cret\""], "same-origin", None), alice);
        assert_eq!(
            ask(&["credits=s3cret"], "cross-site", Some("Bearer s3cret")),
            alice,
            "a token that a page itself sends needs no origin"
        );
        for (cookies, site, authorization, error) in [
            (&["credits=s3cret"] as &[_], "cross-site", None, "a cookie from another origin"),
            (&["credits=s3cret"], "same-origin", Some("Bearer wrong"), "unknown credentials"),
            (&["credits=wrong"], "same-origin", None, "unknown credentials"),
            (&["xcredits=s3cret"], "same-origin", None, "no credentials"),
            (&["credits=s3cret; credits=other"], "same-origin", None, "unknown credentials"),
            (&[], "same-origin", None, "no credentials"),
        ] {
            assert_eq!(ask(cookies, site, authorization), Err(error.to_owned()), "{cookies:?}");
        }
    }

    #[test]
    fn a_file_of_digests_is_read_and_no_secret_is_shown() {
        let digest = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";
        let entry = |sha256: &str| {
            format!(
                "[[tokens]]\nsha256 = \"{sha256}\"\naccount = \"user:alice\"\ntier = \"free\"\n"
            )
        };
        let read = BearerTokens::from_toml(&entry(digest)).unwrap();
        assert!(
            read.shared.table.load().find(&credentials::digest(b"s3cret")).is_some(),
            "{read:?}"
        );
        assert_eq!(format!("{read:?}"), "BearerTokens { tokens: 1 }");
        let refused = |text: &str| BearerTokens::from_toml(text).unwrap_err().to_string();
        assert!(
            refused(&entry("s3cret")).starts_with("line 2: sha256: write 64 hexadecimal digits")
        );
        assert!(!refused(&entry("s3cret")).contains("s3cret"));
        assert!(refused(&entry(digest).replace("user:", "")).starts_with("line 3: account: "));
        for pasted in ["[[tokens]]\ntoken = \"s3cret\"", "tokens = [\"s3cret\"]", "tokens = s3cret"]
        {
            let refused = refused(pasted);
            assert!(
                refused.contains("each [[tokens]] has sha256") && !refused.contains("s3cret"),
                "{refused}"
            );
        }
        for empty in ["", "# all of them are gone\n"] {
            assert!(
                refused(empty).contains("write [[tokens]] for each, or `tokens = []`"),
                "{}",
                refused(empty)
            );
        }
        assert_eq!(
            format!("{:?}", BearerTokens::from_toml("tokens = []").unwrap()),
            "BearerTokens { tokens: 0 }"
        );
    }
}
