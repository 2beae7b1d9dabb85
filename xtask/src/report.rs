//! What the rules found, and how it is said.

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A problem fails the check; a warning is only said.
    pub problem: bool,
    pub text: String,
}

pub fn problem(text: impl Into<String>) -> Finding {
    Finding { problem: true, text: text.into() }
}

pub fn warning(text: impl Into<String>) -> Finding {
    Finding { problem: false, text: text.into() }
}

#[derive(Debug, Default)]
pub struct Report {
    rules: usize,
    problems: usize,
    warnings: usize,
}

impl Report {
    /// Prints one rule's result at once, so that a slow rule after it does not hold it back.
    pub fn rule(&mut self, name: &str, what: &str, findings: Vec<Finding>) {
        let problems = findings.iter().filter(|finding| finding.problem).count();
        self.rules += 1;
        self.problems += problems;
        self.warnings += findings.len() - problems;
        println!("{} {name}: {what}", if problems == 0 { "ok  " } else { "FAIL" });
        for finding in findings {
            println!("     {}: {}", if finding.problem { "problem" } else { "warning" }, finding.text);
        }
    }

    pub fn passed(&self) -> bool {
        self.problems == 0
    }

    pub fn close(&self) {
        let verdict = if self.passed() { "check passed" } else { "check FAILED" };
        println!("{verdict}: {} rules, {} problems, {} warnings", self.rules, self.problems, self.warnings);
    }
}
