package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Configs are files and variables of apps.
var Configs = &Kind[*Config]{
	Name: "Config", Plural: "configs", Aliases: []string{"config", "cfg"}, Scope: Namespaced,
	Doc: "Text for apps, by key: containers find it as variables (configs) or files. A change is a rollout of the apps that use it; when that fails, the text of before is put back.",
	Columns: []Column[*Config]{
		{Name: "KEYS", Of: func(c *Config) string { return dash(strings.Join(sortedKeys(c.Effective.Data), ",")) }},
		{Name: "HASH", Of: func(c *Config) string { return dash(c.Status.Hash) }},
		{Name: "USED BY", Of: func(c *Config) string { return dash(strings.Join(c.Status.UsedBy, ",")) }},
		{Name: "AGE", Of: func(c *Config) string { return Age(c.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(c *Config) string { return c.Status.Message }},
	},
}

// Config is text for apps.
type Config = Object[ConfigSpec, VersionedStatus]

// ConfigSpec is what the text is.
type ConfigSpec struct {
	Data map[string]string `json:"data,omitempty" required:"true" doc:"Text by key, such as log_level or nginx.conf; together at most 512 KiB."`
}

// VersionedStatus is what the content loop sees of a config or secret.
type VersionedStatus struct {
	Hash    string   `json:"hash,omitempty" doc:"Version that apps get."`
	Keys    []string `json:"keys,omitempty" doc:"Keys it has."`
	UsedBy  []string `json:"used_by,omitempty" doc:"Apps and jobs that use it, such as app/web."`
	Message string   `json:"message,omitempty" doc:"Why the version is not the one that was last declared: a rollout of it failed."`
}

// Bounds of what one config or secret holds.
const (
	MaxContent     = 512 << 10
	MaxContentKeys = 1000
)

// Validate reports every violation.
func (s ConfigSpec) Validate() error {
	var errs Errors
	if len(s.Data) == 0 {
		errs.Addf("data", "at least one key is required")
	}
	errs.Add("data", checkData(s.Data))
	return errs.Err()
}

// checkData never repeats a value: one may be a secret.
func checkData(data map[string]string) error {
	var errs Errors
	size := 0
	for _, k := range sortedKeys(data) {
		errs.Add(keyPath(k), checkKey(k))
		size += len(k) + len(data[k])
		if strings.ContainsRune(data[k], 0) {
			errs.Addf(keyPath(k), "has a zero byte, which neither variables nor text may have: encode it, for example as base64")
		}
	}
	if size > MaxContent {
		errs.Addf("", "%d bytes are too much: together at most %d", size, MaxContent)
	}
	if len(data) > MaxContentKeys {
		errs.Addf("", "%d keys are too many: at most %d", len(data), MaxContentKeys)
	}
	return errs.Err()
}

func checkKey(k string) error {
	if !contentRE.MatchString("x/" + k) {
		return fmt.Errorf("not a key: want letters, digits, dots, dashes and underscores, at most 253")
	}
	return nil
}

// ConfigHash names a version of config/web.
func ConfigHash(of string, data map[string]string) string {
	b, err := json.Marshal(map[string]any{of: data})
	if err != nil {
		panic(err) // text
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// WithDefaults returns s: it has no default.
func (s ConfigSpec) WithDefaults() ConfigSpec { return s }

// Contents are versions of configs and secrets.
var Contents = &Kind[*Content]{
	Name: "Content", Plural: "contents", Aliases: []string{"content"}, Scope: Namespaced, Derived: true,
	Doc:     "One version of a config or secret, kept while it is current, in use, or needed to roll back to. The cluster writes it.",
	Indexes: map[string]func(*Content) string{"of": func(c *Content) string { return c.Spec.Of }},
	Columns: []Column[*Content]{
		{Name: "OF", Of: func(c *Content) string { return c.Spec.Of }},
		{Name: "HASH", Of: func(c *Content) string { return c.Spec.Hash }},
		{Name: "KEYS", Of: func(c *Content) string { return dash(strings.Join(c.Spec.Keys, ",")) }},
		{Name: "AGE", Of: func(c *Content) string { return Age(c.Meta.CreatedAt) }},
	},
}

// Content is one version of a config or secret.
type Content = Object[ContentSpec, ContentStatus]

// ContentSpec is written by the API server, with the config or secret. It
// never changes.
type ContentSpec struct {
	Of       string              `json:"of" doc:"What it is a version of: config/web or secret/db."`
	Hash     string              `json:"hash" doc:"Names the version; of a secret, it tells nothing about the values."`
	Keys     []string            `json:"keys,omitempty" doc:"Keys it has."`
	Data     map[string]string   `json:"data,omitempty" doc:"Text by key, of a config. The values of a secret are no part of any object."`
	Generate map[string]Generate `json:"generate,omitempty" doc:"Keys of a secret whose values the cluster made, and how."`
}

// Validate reports every violation.
func (s ContentSpec) Validate() error {
	var errs Errors
	if s.Of == "" || s.Hash == "" {
		errs.Addf("of", "required, and hash too")
	}
	return errs.Err()
}

// WithDefaults returns s.
func (s ContentSpec) WithDefaults() ContentSpec { return s }

// ContentStatus is empty: a version is all spec.
type ContentStatus struct{}

// ContentName names the object of a version of config/web or secret/db.
func ContentName(of, hash string) string {
	name := strings.Replace(of, "/", "-", 1)
	return name[:min(len(name), 62-len(hash))] + "-" + hash
}

// ContentRef is the config or secret that of names: config/web or secret/db.
func ContentRef(namespace, of string) Ref {
	kind, name, _ := strings.Cut(of, "/")
	if kind == "secret" {
		return Secrets.Ref(namespace, name)
	}
	return Configs.Ref(namespace, name)
}

// ContentUse is one place of a template that needs a key of a config or secret.
type ContentUse struct {
	Of  string // config/web or secret/db
	Key string
	At  string // the field that says so, such as secrets.DATABASE_URL
}

// Noun is how messages call what is used: secret db.
func (u ContentUse) Noun() string { return strings.Replace(u.Of, "/", " ", 1) }

// ContentUses lists what a template needs, in a fixed order.
func (t PodTemplate) ContentUses() (uses []ContentUse) {
	add := func(kind, ref, at string) {
		name, key := ContentKey(ref)
		uses = append(uses, ContentUse{kind + "/" + name, key, at})
	}
	of := func(at string, c Container) {
		for _, k := range sortedKeys(c.Secrets) {
			add("secret", c.Secrets[k], join(at, join("secrets", keyPath(k))))
		}
		for _, k := range sortedKeys(c.Configs) {
			add("config", c.Configs[k], join(at, join("configs", keyPath(k))))
		}
		for _, p := range sortedKeys(c.Files) {
			switch f, at := c.Files[p], join(at, join("files", keyPath(p))); {
			case f.Secret != "":
				add("secret", f.Secret, at)
			case f.Config != "":
				add("config", f.Config, at)
			}
		}
	}
	of("", t.Container)
	for _, name := range sortedKeys(t.Init) {
		of("init."+name, t.Init[name].Container())
	}
	for _, name := range sortedKeys(t.Sidecars) {
		of("sidecars."+name, t.Sidecars[name])
	}
	if t.PullAuth != "" {
		add("secret", t.PullAuth+"/username", "pull_auth")
		add("secret", t.PullAuth+"/password", "pull_auth")
	}
	return uses
}

// ResolveContents finds the versions that a template's configs and secrets have
// now: hash by config/name or secret/name. What is missing is the cause why no
// pod can run.
func ResolveContents(t PodTemplate, current func(of string) (hash string, keys []string)) (map[string]string, *Cause) {
	var contents map[string]string
	var missing *Cause
	var lacking []string
	for _, u := range t.ContentUses() {
		hash, keys := current(u.Of)
		if hash != "" && slices.Contains(keys, u.Key) {
			if contents == nil {
				contents = map[string]string{}
			}
			contents[u.Of] = hash
			continue
		}
		if missing == nil {
			missing = &Cause{Reason: missingReason(u.Of), Message: u.missing(hash != "")}
		}
		lacking = append(lacking, u.Of)
	}
	for _, of := range lacking { // a version without one of its keys is none
		delete(contents, of)
	}
	return contents, missing
}

// Reasons of a pod or rollout that lacks a config or secret.
const (
	MissingSecret = "missing_secret"
	MissingConfig = "missing_config"
)

func missingReason(of string) string {
	if strings.HasPrefix(of, "secret/") {
		return MissingSecret
	}
	return MissingConfig
}

func (u ContentUse) missing(exists bool) string {
	if !exists {
		return fmt.Sprintf("%s does not exist; write it, or correct %s", u.Noun(), u.At)
	}
	return fmt.Sprintf("%s has no key %s; write it, or correct %s", u.Noun(), u.Key, u.At)
}
