package apiserver

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Auditor keeps what people and machines did. It must not block.
type Auditor interface{ Record(AuditEntry) }

// AuditEntry is one deed, or what was refused. It names objects and never says
// what they contain, nor what a command was.
type AuditEntry struct {
	At        time.Time `json:"at"`
	Who       string    `json:"who,omitempty"`  // user:ci; missing of a stranger
	With      string    `json:"with,omitempty"` // whose credential was shown: of a stranger, and of a machine that joins
	From      string    `json:"from,omitempty"` // address
	Program   string    `json:"program,omitempty"`
	Verb      api.Verb  `json:"verb"`
	Kind      string    `json:"kind,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name,omitempty"`
	Outcome   Outcome   `json:"outcome"`
	Code      int       `json:"code,omitempty"`   // of what was not done
	Reason    string    `json:"reason,omitempty"` // of what was denied
	RequestID string    `json:"request_id,omitempty"`
}

// Outcome is what came of it.
type Outcome string

// The outcomes of an AuditEntry.
const (
	OutcomeDone   Outcome = "done"   // of a stream: it was opened
	OutcomeDenied Outcome = "denied" // for lack of rights
	OutcomeFailed Outcome = "failed" // for any other reason
)

// deed is one thing that a request does.
type deed struct {
	verb api.Verb
	ref  api.Ref
}

// does says of a request what it does, where its path does not.
func (r *request) does(verb api.Verb, ref api.Ref) { r.deeds = append(r.deeds, deed{verb, ref}) }

// audit records what r did, unless it only read, or is one of the many by which
// members say how they are. What is denied is recorded whatever it is.
func (s *Server) audit(r *request, code api.Code, err error) {
	denied := code == api.Denied || code == api.Unauthenticated
	if s.cfg.Audit == nil || r.audited || !denied && !r.tells() {
		return
	}
	e := AuditEntry{At: api.Now(), Who: r.by.Identity.String(), With: clip(r.with), From: r.RemoteAddr,
		Program: clip(r.UserAgent()), Outcome: OutcomeDone, RequestID: clip(r.Header.Get(api.HeaderRequestID))}
	if err != nil {
		e.Outcome, e.Code = OutcomeFailed, int(code)
	}
	if refusal, ok := errors.AsType[*api.Error](err); denied && ok {
		e.Outcome, e.Reason = OutcomeDenied, refusal.Message
	}
	if r.deeds == nil {
		ref := api.Ref{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
		if r.kind != nil {
			ref.Kind = r.kind.info.Name
		}
		r.does(r.act, ref)
	}
	for _, d := range r.deeds {
		e.Verb, e.Kind, e.Namespace, e.Name = d.verb, clip(d.ref.Kind), clip(d.ref.Namespace), clip(d.ref.Name)
		s.cfg.Audit.Record(e)
	}
}

// tells reports whether what r does is worth a line when it is let through.
func (r *request) tells() bool {
	switch {
	case r.Method == http.MethodGet, r.act == api.VerbPlan, r.dry():
		return false
	case r.by.Role == RoleSystem: // what loops do follows from what was written
		return false
	case r.by.Role == RoleNode:
		return !r.routine
	}
	return true
}

// dry reports whether r is only a question, at a route that takes it for one.
func (r *request) dry() bool {
	return r.flag("dry_run") && slices.ContainsFunc(r.doc.query, func(p param) bool { return p == askDryRun || p == askWhether })
}

// clip keeps strangers from writing books.
func clip(s string) string { return s[:min(len(s), 256)] }

// auditNow records a stream as it begins: its end may be far away.
func (s *Server) auditNow(r *request) {
	s.audit(r, 0, nil)
	r.audited = true
}
