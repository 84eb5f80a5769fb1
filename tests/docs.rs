//! The pages for readers: their links lead somewhere, in the repository and on docs.rs, and the
//! files that they name exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const DOCS_RS: &str = "https://docs.rs/tower-credits/latest/tower_credits/";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the guide's pages: `lease-protocol`.
fn pages() -> BTreeSet<String> {
    let names = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| Some(name.to_str()?.strip_suffix(".md")?.to_owned())).collect()
}

/// A page of the repository, without its code.
struct Page {
    file: String,
    /// Lines outside of code blocks, with their numbers.
    lines: Vec<(usize, String)>,
}

impl Page {
    fn read(file: &str) -> Self {
        let mut in_code = false;
        let mut lines = Vec::new();
        for (number, line) in read(file).lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if !in_code {
                lines.push((number + 1, line.to_owned()));
            }
        }
        Self { file: file.to_owned(), lines }
    }

    /// The targets of inline links: `[text](target)`.
    fn inline_links(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().flat_map(|(number, line)| {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(|target| (*number, target))
        })
    }

    /// What links are defined to lead to, by their labels: `[label]: target`.
    fn definitions(&self) -> BTreeMap<&str, &str> {
        let defined = self.lines.iter().filter_map(|(_, line)| {
            line.strip_prefix('[')?.split_once("]: ").filter(|(_, target)| !target.contains(' '))
        });
        defined.collect()
    }

    /// The anchors of its headings, as GitHub and rustdoc make them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.lines.iter().filter(|(_, line)| line.starts_with('#'));
        headings
            .map(|(_, heading)| {
                let heading = heading.trim_start_matches('#').trim();
                let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.collect::<String>().to_lowercase().replace(' ', "-")
            })
            .collect()
    }
}

/// All files that people read.
fn all() -> Vec<Page> {
    let top = ["README", "CHANGELOG", "CONTRIBUTING", "RELEASING", "SECURITY", "benches/README"];
    let top = top.map(|name| format!("{name}.md"));
    let guide = pages().into_iter().map(|name| format!("docs/{name}.md"));
    top.into_iter().chain(guide).map(|file| Page::read(&file)).collect()
}

/// Says what is wrong with a link, if anything is.
fn fault(from: &Page, target: &str) -> Option<String> {
    if let Some(item) = target.strip_prefix(DOCS_RS) {
        return fault_on_docs_rs(item);
    }
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => PathBuf::from(&from.file),
        path => Path::new(&from.file).parent().unwrap().join(path),
    };
    if !root().join(&file).exists() {
        return Some("there is no such file".to_owned());
    }
    fault_of_anchor(&file, anchor)
}

fn fault_of_anchor(file: &Path, anchor: &str) -> Option<String> {
    let known = || Page::read(file.to_str().unwrap()).anchors();
    (!anchor.is_empty() && !known().contains(anchor)).then(|| "there is no such heading".to_owned())
}

/// A page of the guide, or a public item: its name has to be in the front of its module.
fn fault_on_docs_rs(item: &str) -> Option<String> {
    let (path, anchor) = item.split_once('#').unwrap_or((item, ""));
    let (module, last) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(page) = module.strip_prefix("guide/") {
        let page = page.replace('_', "-");
        return match pages().contains(&page) {
            true => fault_of_anchor(Path::new(&format!("docs/{page}.md")), anchor),
            false => Some("the guide has no such page".to_owned()),
        };
    }
    let front = match module {
        "" => "src/lib.rs".to_owned(),
        module => {
            let files = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")];
            let file = files.into_iter().find(|file| root().join(file).exists());
            let Some(file) = file else { return Some("there is no such module".to_owned()) };
            file
        }
    };
    let (_, name) = last.strip_suffix(".html")?.split_once('.')?;
    let names = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
    };
    (!names(&read(front))).then(|| format!("its module does not name `{name}`"))
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in all() {
        let defined = page.definitions().into_values().map(|target| (0, target));
        for (line, target) in page.inline_links().chain(defined) {
            if let Some(fault) = fault(&page, target) {
                wrong.push(format!("{}:{line}: {target}: {fault}", page.file));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Relative links are dead on docs.rs. So each link of the guide and of the README is defined
/// twice: at the end of its page for readers of the repository, and in `src/guide/links.md`, which
/// stands before each page on docs.rs.
#[test]
fn the_guides_links_work_on_docs_rs() {
    let links = Page::read("src/guide/links.md");
    let known = links.definitions();
    let mut wrong = Vec::new();
    let guide = pages().into_iter().map(|name| format!("docs/{name}.md"));
    for page in guide.chain(["README.md".to_owned()]).map(|file| Page::read(&file)) {
        let file = &page.file;
        for (line, target) in page.inline_links() {
            if !target.starts_with('#') && !target.contains("://") {
                wrong.push(format!("{file}:{line}: write [text][{target}], and define it below"));
            }
        }
        for (label, target) in page.definitions() {
            let leads_away = target.contains("://") && !target.starts_with(DOCS_RS);
            if !leads_away && !known.contains_key(label) {
                wrong.push(format!("{file}: src/guide/links.md does not define [{label}]"));
            }
            let page = target.split_once(".md").filter(|_| !target.contains("://"));
            if page.is_some_and(|(page, anchor)| format!("{page}{anchor}") != label) {
                wrong.push(format!("{file}: [{label}] should be named after {target}"));
            }
        }
        let text: String = page.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        let unused = |label: &&&str| text.matches(&format!("[{label}]")).count() < 2;
        let defined = page.definitions();
        for label in text.split("][").skip(1).filter_map(|rest| rest.split(']').next()) {
            if !defined.contains_key(label) {
                wrong.push(format!("{file}: [{label}] is not defined at its end"));
            }
        }
        let unused: Vec<_> = defined.keys().filter(unused).collect();
        if !unused.is_empty() {
            wrong.push(format!("{file}: links that are defined and not used: {unused:?}"));
        }
    }
    for (label, target) in &known {
        let (page, anchor) = label.split_once('#').unwrap_or((label, ""));
        if let Some(path) = target.strip_prefix("crate::guide::") {
            let expected = match anchor {
                "" => page.replace('-', "_"),
                anchor => format!("{}#{anchor}", page.replace('-', "_")),
            };
            if path != expected {
                wrong.push(format!("links.md: [{label}] leads to {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_guide_and_on_its_front() {
    let guide = read("src/guide/mod.rs");
    for page in pages() {
        let module = page.replace('-', "_");
        assert!(guide.contains(&format!("docs/{page}.md")), "docs/{page}.md is in no module");
        assert!(guide.contains(&format!("pub mod {module} {{}}")), "there is no module {module}");
        assert!(guide.contains(&format!("]({module}):")), "{module} is not on the guide's front");
        let readme = read("README.md");
        assert!(readme.contains(&format!("[{page}]: ")), "README.md does not lead to {page}");
    }
}

/// Paths in `code`, as far as they look like files of this repository, with where they stand.
fn paths(page: &Page) -> Vec<(usize, String)> {
    let folders = ["src/", "tests/", "docs/", "benches/", "examples/", "scripts/"];
    let mut paths = Vec::new();
    for (number, line) in &page.lines {
        for code in line.split('`').skip(1).step_by(2) {
            if folders.iter().any(|folder| code.starts_with(folder)) && !code.contains(['*', ' ']) {
                paths.push((*number, code.to_owned()));
            }
        }
    }
    paths
}

#[test]
fn the_files_that_pages_name_exist() {
    let mut wrong = Vec::new();
    for page in all() {
        for (line, path) in paths(&page) {
            if !root().join(&path).exists() {
                wrong.push(format!("{}:{line}: there is no {path}", page.file));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two rules of the house that a reader notices first.
#[test]
fn the_readme_is_short_and_prose_fits_a_hundred_columns() {
    assert!(read("README.md").lines().count() <= 130, "README.md has more than 130 lines");
    let mut wrong = Vec::new();
    for page in all() {
        for (number, line) in &page.lines {
            let is_prose = !line.starts_with(['|', '[', '!']);
            if is_prose && line.chars().count() > 100 {
                wrong.push(format!("{}:{number}", page.file));
            }
        }
    }
    assert!(wrong.is_empty(), "longer than 100 columns: {}", wrong.join(", "));
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let begins = text.match_indices("tower_credits_").map(|(at, _)| at);
    begins
        .map(|at| &text[at..][..text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at)])
        .collect()
}

/// The files of a folder and of those in it: Rust without what is generated, and scripts.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            let is_ours = !["target", "mistralrs", "__fuzz__", "node_modules"].contains(&name);
            is_ours.then(|| sources(&path, found));
        } else if name.ends_with(".rs") && !name.ends_with(".v1.rs") || !name.contains('.') {
            found.push(path);
        }
    }
}

/// rustfmt leaves comments as they are.
#[test]
fn comments_fit_a_hundred_columns() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "cli", "examples", "scripts"] {
        sources(&root().join(folder), &mut files);
    }
    let mut wrong = Vec::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let words = line.trim_start().trim_start_matches(['/', '!', '#', ' ']);
            let is_comment = line.trim_start().starts_with(['/', '#']);
            // Tables and links cannot be broken.
            let is_whole = words.starts_with('|') || words.contains("http");
            if is_comment && !is_whole && line.chars().count() > 100 {
                wrong.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(files.len() > 300 && wrong.is_empty(), "{} files: {wrong:?}", files.len());
}

#[test]
fn dashboard_alerts_and_pages_name_metrics_that_exist_and_alerts_have_a_runbook() {
    let source = read("src/observe.rs");
    let (dashboard, alerts) =
        (read("docs/monitoring/dashboard.json"), read("docs/monitoring/alerts.yml"));
    let known = metrics(&source);
    // Constants of histograms, by their names in the source.
    let is_histogram = |name: &str| {
        let constant = source.lines().find_map(|line| {
            let (constant, rest) =
                line.trim().strip_prefix("pub(super) const ")?.split_once(':')?;
            rest.contains(&format!("\"{name}\"")).then_some(constant)
        });
        constant.is_some_and(|constant| {
            let source = source.split_whitespace().collect::<String>();
            source.contains(&format!("describe_histogram!({constant},"))
        })
    };
    let exists = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        base.map_or_else(
            || known.contains(name) && !is_histogram(name),
            |base| known.contains(base) && is_histogram(base),
        )
    };
    let mut queried = BTreeSet::new();
    for text in [&dashboard, &alerts] {
        for name in metrics(text) {
            assert!(exists(name), "{name} is queried, and no such series exists");
            queried.insert(name.to_owned());
        }
    }
    assert!(queried.len() > 20, "{queried:?}");
    for page in ["docs/production.md", "docs/monitoring.md"] {
        for name in metrics(&read(page)).into_iter().filter(|name| *name != "tower_credits_") {
            assert!(known.contains(name) || exists(name), "{page} names {name}");
        }
    }
    let table = read("docs/production.md");
    for name in known {
        assert!(table.contains(name), "docs/production.md does not explain {name}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
    let runbook = read("docs/monitoring.md");
    let names: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        assert!(runbook.contains(&format!("### {name}\n")), "{name} has no runbook");
        assert!(alerts.contains(&format!("docs/monitoring.md#{}", name.to_lowercase())), "{name}");
    }
}

/// Tests and scenarios that a page names, as `file`: `name` and rig "name".
#[test]
fn the_tests_that_guarantees_and_threats_name_exist() {
    let scenarios = read("tests/faults/scenarios.rs");
    let mut named = 0;
    for page in ["docs/guarantees.md", "SECURITY.md"] {
        for line in read(page).lines() {
            for (at, _) in line.match_indices("`: `") {
                let file = line[..at].rsplit('`').next().unwrap();
                let name = line[at + 4..].split('`').next().unwrap();
                assert!(
                    read(file).contains(&format!("fn {name}(")),
                    "{page}: {file} has no test {name}"
                );
                named += 1;
            }
            for (at, _) in line.match_indices("rig \"") {
                let name = line[at + 5..].split('"').next().unwrap();
                assert!(
                    scenarios.contains(&format!("\"{name}\"")),
                    "{page}: the rig has no scenario {name}"
                );
                named += 1;
            }
        }
    }
    assert!(named > 100, "the pages name {named} tests");
}
