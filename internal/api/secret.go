package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Secrets are values of apps that nobody else may read.
var Secrets = &Kind[*Secret]{
	Name: "Secret", Plural: "secrets", Aliases: []string{"secret"}, Scope: Namespaced,
	Doc: "Values for apps that nobody else reads: containers find them as variables (secrets) or files in memory. They are kept encrypted and given only to nodes that run a pod that uses them; the API shows none. A change is a rollout of the apps that use it; when that fails, the values of before are put back.",
	Columns: []Column[*Secret]{
		{Name: "KEYS", Of: func(s *Secret) string { return dash(strings.Join(s.Status.Keys, ",")) }},
		{Name: "HASH", Of: func(s *Secret) string { return dash(s.Spec.Hash) }},
		{Name: "USED BY", Of: func(s *Secret) string { return dash(strings.Join(s.Status.UsedBy, ",")) }},
		{Name: "AGE", Of: func(s *Secret) string { return Age(s.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(s *Secret) string { return s.Status.Message }},
	},
}

// Secret is values of apps.
type Secret = Object[SecretSpec, VersionedStatus]

// SecretSpec says values, or names the version that has them.
type SecretSpec struct {
	Data     map[string]string   `json:"data,omitempty" writeOnly:"true" doc:"Values by key, such as url; together at most 512 KiB. Whoever writes it writes all of them: keys that are left out are gone. It can be written, and never read: hash takes its place."`
	Generate map[string]Generate `json:"generate,omitempty" doc:"Values the cluster makes by itself, by key. One stays until its line here changes."`
	Hash     string              `json:"hash,omitempty" doc:"Names the version, and tells nothing about the values; the cluster makes it. A write that gives a hash instead of data keeps the values of that version, or brings them back."`
}

// Generate says how the cluster makes a value.
type Generate struct {
	Length  *int   `json:"length,omitempty" doc:"Characters." default:"32"`
	Charset string `json:"charset,omitempty" doc:"Which characters." enum:"alnum,hex,ascii" default:"alnum"`
	Version *int   `json:"version,omitempty" doc:"Any number: another one makes a new value. Default: 0."`
}

// Charsets are the characters of generated values. That of ascii leaves out what shells and
// URLs take for something else.
var Charsets = map[string]string{
	"alnum": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
	"hex":   "0123456789abcdef",
	"ascii": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#*+,-.:;=_~^",
}

const minGenerated, maxGenerated = 8, 1024

// Validate reports every violation, and repeats no value.
func (s SecretSpec) Validate() error {
	var errs Errors
	if len(s.Data) == 0 && len(s.Generate) == 0 && s.Hash == "" {
		errs.Addf("data", "write at least one value, or have one made with generate")
	}
	if len(s.Data) > 0 && s.Hash != "" {
		errs.Addf("hash", "data says the values anew: leave one of the two out")
	}
	errs.Add("data", checkData(s.Data))
	for _, k := range sortedKeys(s.Generate) {
		at, g := join("generate", keyPath(k)), s.Generate[k].withDefaults()
		errs.Add(at, checkKey(k))
		if n := *g.Length; n < minGenerated || n > maxGenerated {
			errs.Addf(at+".length", "%d is out of range: want %d to %d", n, minGenerated, maxGenerated)
		}
		if Charsets[g.Charset] == "" {
			errs.Addf(at+".charset", "%q is unknown: want %s", g.Charset, strings.Join(slices.Sorted(maps.Keys(Charsets)), ", "))
		}
		if _, dup := s.Data[k]; dup {
			errs.Addf(at, "data has the key, too")
		}
	}
	if len(s.Generate) > MaxContentKeys {
		errs.Addf("generate", "more than %d", MaxContentKeys)
	}
	return errs.Err()
}

// WithDefaults fills in how values are generated.
func (s SecretSpec) WithDefaults() SecretSpec {
	for k, g := range s.Generate {
		s.Generate[k] = g.withDefaults()
	}
	return s
}

func (g Generate) withDefaults() Generate {
	g.Length, g.Version = or(g.Length, 32), or(g.Version, 0)
	g.Charset = cmp.Or(g.Charset, "alnum")
	return g
}

// Same reports whether a value that was made as g says is one that h asks for.
func (g Generate) Same(h Generate) bool {
	g, h = g.withDefaults(), h.withDefaults()
	return *g.Length == *h.Length && *g.Version == *h.Version && g.Charset == h.Charset
}

// ContentVersion is the answer to a node that asks for a version.
type ContentVersion struct {
	Hash string            `json:"hash"`
	Data map[string]string `json:"data" doc:"Values by key."`
}
