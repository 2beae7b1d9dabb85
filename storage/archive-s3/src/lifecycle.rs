//! The bucket's lifecycle: our rule is put and kept in step, and rules of others that would remove what we keep are named.

use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, ExpirationStatus, LifecycleRule, LifecycleRuleFilter, Transition,
    TransitionStorageClass,
};
use flywheel_archive::{ArchiveError, ArchiveErrorKind};

use crate::{S3Archive, S3Settings, error::answer};

/// What is cold lies below this name; what says what there is does not, so that it stays readable at once.
const COLD: &str = "cold/";

impl S3Settings {
    /// One rule for each archive in a bucket.
    fn rule_id(&self) -> String {
        format!("flywheel-archive {}", self.prefix).trim_end().to_owned()
    }

    fn rule(&self) -> Option<LifecycleRule> {
        let (days, class) = self.transition.as_ref()?;
        let transition = Transition::builder()
            .days(i32::try_from(*days).unwrap_or(i32::MAX))
            .storage_class(TransitionStorageClass::from(class.as_str()))
            .build();
        let rule = LifecycleRule::builder()
            .id(self.rule_id())
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix(self.key(COLD)).build())
            .transitions(transition)
            .build();
        Some(rule.expect("a rule has a status"))
    }
}

impl S3Archive {
    /// Puts our rule if one is configured and not there, takes it away if none is, and leaves every other as it is.
    pub(crate) async fn see_to_lifecycle(&self) -> Result<Vec<String>, ArchiveError> {
        let settings = &*self.settings;
        let wanted = settings.rule();
        let found = match self.rules().await {
            Ok(found) => found,
            Err(error) if wanted.is_none() => {
                // Nothing of ours depends on it, but something of others may be in it.
                tracing::debug!(%error, "the lifecycle of the archive's bucket cannot be read");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let (ours, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|rule| rule.id.as_deref() == Some(&settings.rule_id()));
        let mut remarks = removers(&others, settings);
        let in_step = match (&wanted, ours.as_slice()) {
            (None, []) => true,
            (Some(wanted), [ours]) => same(wanted, ours),
            _ => false,
        };
        if in_step {
            return Ok(remarks);
        }
        let rules: Vec<_> = others.into_iter().chain(wanted.clone()).collect();
        self.put_rules(rules).await?;
        // A server may take a rule and not keep it.
        let kept = self.rules().await?;
        let ours = kept.iter().find(|rule| rule.id.as_deref() == Some(&settings.rule_id()));
        match (&wanted, ours) {
            (Some(wanted), Some(ours)) if same(wanted, ours) => remarks.push(format!(
                "the bucket's lifecycle now moves what is below `{}` to {} after {} days",
                settings.key(COLD),
                settings.transition.as_ref().map_or("", |(_, class)| class),
                settings.transition.as_ref().map_or(0, |(days, _)| *days),
            )),
            (None, None) => remarks.push("our rule was taken out of the bucket's lifecycle".to_owned()),
            _ => {
                let why = "the server took the lifecycle rule and did not keep it; set `archive.transition_days = 0`, \
                           or use a server that has lifecycles";
                return Err(ArchiveError::new(
                    ArchiveErrorKind::Refused,
                    "setting the lifecycle of",
                    settings.place(),
                    why,
                ));
            }
        }
        Ok(remarks)
    }

    async fn rules(&self) -> Result<Vec<LifecycleRule>, ArchiveError> {
        let asked = self.client.get_bucket_lifecycle_configuration().bucket(&self.settings.bucket).send().await;
        match asked {
            Ok(found) => Ok(found.rules.unwrap_or_default()),
            Err(error) if answer(&error).0 == "NoSuchLifecycleConfiguration" => Ok(Vec::new()),
            Err(error) => Err(self.settings.failed("reading the lifecycle of", "", &error)),
        }
    }

    async fn put_rules(&self, rules: Vec<LifecycleRule>) -> Result<(), ArchiveError> {
        let bucket = &self.settings.bucket;
        if rules.is_empty() {
            let done = self.client.delete_bucket_lifecycle().bucket(bucket).send().await;
            return done.map(|_| ()).map_err(|error| self.settings.failed("setting the lifecycle of", "", &error));
        }
        let whole = BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build();
        let whole = whole.map_err(|e| {
            ArchiveError::new(ArchiveErrorKind::Internal, "setting the lifecycle of", self.settings.place(), e)
        })?;
        let request = self.client.put_bucket_lifecycle_configuration().bucket(bucket).lifecycle_configuration(whole);
        let done = request.send().await;
        done.map(|_| ()).map_err(|error| self.settings.failed("setting the lifecycle of", "", &error))
    }
}

fn prefix_of(rule: &LifecycleRule) -> &str {
    let filter = rule.filter.as_ref();
    let anded = filter.and_then(|filter| filter.and.as_ref()).and_then(|and| and.prefix.as_deref());
    #[expect(deprecated, reason = "older rules have it, and still act by it")]
    let old = rule.prefix.as_deref();
    filter.and_then(|filter| filter.prefix.as_deref()).or(anded).or(old).unwrap_or_default()
}

fn same(wanted: &LifecycleRule, found: &LifecycleRule) -> bool {
    let steps = |rule: &LifecycleRule| -> Vec<_> {
        let transitions = rule.transitions.iter().flatten();
        transitions.map(|t| (t.days, t.storage_class.clone())).collect()
    };
    found.status == ExpirationStatus::Enabled
        && prefix_of(found) == prefix_of(wanted)
        && steps(found) == steps(wanted)
        && found.expiration.is_none()
}

/// Rules of others that remove objects of ours, each as a sentence.
fn removers(rules: &[LifecycleRule], settings: &S3Settings) -> Vec<String> {
    let root = settings.key("");
    let removes = |rule: &&LifecycleRule| {
        let days = rule.expiration.as_ref().is_some_and(|e| e.days.is_some() || e.date.is_some());
        let prefix = prefix_of(rule);
        rule.status == ExpirationStatus::Enabled && days && (root.starts_with(prefix) || prefix.starts_with(&root))
    };
    let say = |rule: &LifecycleRule| {
        format!(
            "rule `{}` of the bucket's lifecycle removes objects below `{}`, and so what is archived there",
            rule.id.as_deref().unwrap_or("without a name"),
            prefix_of(rule)
        )
    };
    rules.iter().filter(removes).map(say).collect()
}
