package apiserver

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// serveGet answers GET of one object.
func (s *Server) serveGet(w http.ResponseWriter, r *request) error {
	key, err := r.key()
	if err != nil {
		return err
	}
	snap, err := s.snapshot(r)
	if err != nil {
		return err
	}
	o := snap.get(key)
	if err := allow(r.by, r.to(api.VerbRead, o)); err != nil {
		return err
	}
	if o == nil {
		return s.missing(snap, r.ref())
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(o.meta.Generation, 10)+`"`)
	answer(w, http.StatusOK, snap.revision, o.body)
	return nil
}

// missing says that ref does not exist, or that its namespace does not.
func (s *Server) missing(snap *snapshot, ref api.Ref) error {
	if ref.Namespace != "" && snap.get(s.kinds["namespaces"].key("", ref.Namespace)) == nil {
		return noNamespace(ref)
	}
	return notFound(ref)
}

func noNamespace(ref api.Ref) *api.Error {
	e := conflict(api.NotFound, ref, "namespace %s does not exist", ref.Namespace)
	e.Fields = api.Errors{{Path: "meta.namespace", Message: "create it first, with clusterd_namespace in Terraform or PUT /v1/namespaces/" + ref.Namespace}}
	return e
}

// selection reads the filters of a list or watch. An unknown parameter is
// refused: a filter that is ignored shows too much.
func (r *request) selection() (*selector, error) {
	sel := &selector{kind: r.kind, namespace: r.PathValue("namespace"), labels: map[string]string{}, fields: map[string]string{}}
	if r.kind.namespaced() && sel.namespace != "" && !plausible(sel.namespace) {
		return nil, api.Errorf(api.BadRequest, "the namespace in the path cannot be a name")
	}
	own := []string{"limit", "continue", "watch", "from", "label", "stale"}
	known := append(own, r.kind.info.Indexes...)
	for name, values := range r.URL.Query() {
		switch {
		case !slices.Contains(known, name):
			return nil, api.Errorf(api.BadRequest, "there is no parameter %q for %s%s (known: %s)", name, r.kind.info.Plural, didYouMean(name, known), strings.Join(known, ", "))
		case name == "label":
			for _, l := range values {
				if !sel.label(l) {
					return nil, api.Errorf(api.BadRequest, "label=%s: want label=key=value", l)
				}
			}
		case slices.Contains(own, name):
		case values[0] == "":
			return nil, api.Errorf(api.BadRequest, "%s: want a value", name)
		default:
			sel.fields[name] = values[0]
		}
	}
	return sel, nil
}

// serveList answers GET of a collection.
func (s *Server) serveList(w http.ResponseWriter, r *request) error {
	sel, err := r.selection()
	if err != nil {
		return err
	}
	if err := allow(r.by, sel.asked(r.by.Identity)); err != nil {
		return err
	}
	if r.flag("watch") {
		return s.serveWatch(w, r, sel)
	}
	limit := 0
	if l := r.URL.Query().Get("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil || limit < 0 {
			return api.Errorf(api.BadRequest, "limit: want a number of objects")
		}
	}
	var p page
	if token := r.URL.Query().Get("continue"); token != "" {
		p, err = s.listOn(r, sel, token, limit)
	} else {
		p, err = s.listNow(r, sel, limit)
	}
	if err != nil {
		return err
	}
	if limit == 0 {
		r.kind.brought(len(p.objects))
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set(api.HeaderRevision, strconv.FormatInt(p.revision, 10))
	out := bufio.NewWriterSize(w, 64<<10) // a write for each object would cost more than the object
	out.WriteString(`{"items":[`)
	for i, o := range p.objects {
		if i > 0 {
			out.WriteString(",\n")
		}
		if _, err := out.Write(o.body); err != nil {
			return nil // the client went away
		}
	}
	fmt.Fprintf(out, `],"revision":%d`, p.revision)
	if p.next != "" {
		fmt.Fprintf(out, `,"continue":%q`, p.next)
	}
	out.WriteString("}\n")
	out.Flush()
	return nil
}

// page is a part of a list, all of it as it was at one revision.
type page struct {
	objects  []*object
	revision int64
	next     string // token of the next page
}

// add appends o unless the page is full; then it says where to go on.
func (p *page) add(o *object, limit int) (more bool) {
	if limit > 0 && len(p.objects) == limit {
		p.next = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", p.revision, p.objects[limit-1].key))
		return false
	}
	p.objects = append(p.objects, o)
	return true
}

// listNow lists from the cache.
func (s *Server) listNow(r *request, sel *selector, limit int) (page, error) {
	snap, err := s.snapshot(r)
	if err != nil {
		return page{}, err
	}
	p := page{revision: snap.revision}
	add := func(o *object) bool { return !sel.matches(o) || p.add(o, limit) }
	if len(sel.fields) > 0 {
		field := slices.Sorted(maps.Keys(sel.fields))[0]
		snap.eachWhere(sel.kind, field, sel.fields[field], add)
	} else {
		snap.each(sel.kind.prefix(sel.namespace), "", add)
	}
	return p, nil
}

const storePage = 500

// listOn goes on with a list at the revision of its first page. The store
// keeps what the cache has overwritten, whichever server the first page came from.
func (s *Server) listOn(r *request, sel *selector, token string, limit int) (page, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	rev, after, ok := strings.Cut(string(raw), " ")
	revision, nerr := strconv.ParseInt(rev, 10, 64)
	prefix := sel.kind.prefix(sel.namespace)
	if err != nil || !ok || nerr != nil || revision <= 0 || !strings.HasPrefix(after, prefix) {
		return page{}, api.Errorf(api.BadRequest, "continue: not a token of this list: begin again without it")
	}
	p := page{revision: revision}
	for {
		sp, err := s.store.List(r.Context(), store.Range{Prefix: prefix, After: after, Limit: storePage, Revision: revision})
		if errors.Is(err, store.ErrCompacted) {
			return page{}, api.Errorf(api.Gone, "the list took too long, its state is no longer kept: begin again without continue")
		}
		if err != nil {
			return page{}, err
		}
		for _, e := range sp.Entries {
			o, err := s.decode(e)
			if err != nil {
				return page{}, err
			}
			if sel.matches(o) && !p.add(o, limit) {
				return p, nil
			}
			after = e.Key
		}
		if !sp.More {
			return p, nil
		}
	}
}
