package apiserver

import (
	"cmp"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// OpenAPI describes the API as OpenAPI 3.1, made from the table of routes and
// the Go types.
func OpenAPI() ([]byte, error) {
	s := &Server{kinds: kindTable()}
	doc := s.describe()
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}

func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *request) error {
	b, err := s.openapi()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
	return nil
}

// describer collects schemas while it goes over the routes.
type describer struct {
	registry huma.Registry
	names    map[reflect.Type]string // of whole objects
	problem  *huma.Schema
}

func (s *Server) describe() *huma.OpenAPI {
	d := describer{names: map[reflect.Type]string{}}
	taken := map[string]bool{}
	for _, k := range s.kinds {
		d.names[k.info.Object] = k.info.Name
		taken[k.info.Name] = true
	}
	d.registry = huma.NewMapRegistry("#/components/schemas/", func(t reflect.Type, hint string) string {
		if name, ok := d.names[t]; ok {
			return name
		}
		name := huma.DefaultSchemaNamer(t, hint)
		name = strings.ToUpper(name[:1]) + name[1:]
		if taken[name] {
			name += "Entry" // the type Event is an entry of the kind Event
		}
		return name
	})
	d.problem = d.registry.Schema(reflect.TypeFor[api.Error](), true, "")
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{Title: "clusterd", Version: "v1",
			Description: "Every object has kind, meta, spec, effective and status; the same calls serve every kind. Errors are problem+json (RFC 9457) whose errors locate each violation by path."},
		Paths: map[string]*huma.PathItem{},
		Components: &huma.Components{Schemas: d.registry, SecuritySchemes: map[string]*huma.SecurityScheme{
			"token":       {Type: "http", Scheme: "bearer", Description: "A user's token: ct_<id>_<secret>."},
			"certificate": {Type: "mutualTLS", Description: "A certificate of a node or server."},
		}},
		Security: []map[string][]string{{"token": {}}, {"certificate": {}}},
	}
	for _, k := range api.Kinds {
		doc.Tags = append(doc.Tags, &huma.Tag{Name: k.Info().Plural, Description: k.Info().Doc})
	}
	for _, rt := range s.routes() {
		item := doc.Paths[rt.path]
		if item == nil {
			item = &huma.PathItem{}
			doc.Paths[rt.path] = item
		}
		op := d.operation(rt)
		switch rt.method {
		case http.MethodGet:
			item.Get = op
		case http.MethodPut:
			item.Put = op
		case http.MethodPost:
			item.Post = op
		case http.MethodDelete:
			item.Delete = op
		}
	}
	return doc
}

var pathParam = regexp.MustCompile(`\{(\w+)\}`)

func (d *describer) operation(rt route) *huma.Operation {
	op := &huma.Operation{OperationID: operationID(rt), Summary: rt.doc.summary, Responses: map[string]*huma.Response{}}
	if rt.kind != nil {
		op.Tags = []string{rt.kind.info.Plural}
	}
	if rt.open {
		op.Security = []map[string][]string{{}}
	}
	text := func() *huma.Schema { return &huma.Schema{Type: huma.TypeString} }
	for _, m := range pathParam.FindAllStringSubmatch(rt.path, -1) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: text()})
	}
	for _, q := range rt.doc.query {
		op.Parameters = append(op.Parameters, &huma.Param{Name: q.name, In: "query", Description: q.doc, Schema: text()})
	}
	for _, h := range rt.doc.header {
		op.Parameters = append(op.Parameters, &huma.Param{Name: h.name, In: "header", Description: h.doc, Schema: text()})
	}
	if rt.doc.in != nil || rt.doc.body != "" {
		op.RequestBody = &huma.RequestBody{Required: true, Content: d.content(rt.doc.in, cmp.Or(rt.doc.body, "application/json"))}
	}
	success := &huma.Response{Description: "Success"}
	switch {
	case rt.doc.list:
		success.Content = map[string]*huma.MediaType{
			"application/json":     {Schema: d.listOf(rt.doc.out)},
			"application/x-ndjson": {Schema: d.changeOf(rt.doc.out)},
		}
	case rt.doc.out != nil || rt.doc.media != "":
		success.Content = d.content(rt.doc.out, cmp.Or(rt.doc.media, "application/json"))
	}
	op.Responses[strconv.Itoa(cmp.Or(rt.doc.status, http.StatusOK))] = success
	if slices.Contains(rt.doc.header, ifAbsent) {
		op.Responses[strconv.Itoa(http.StatusCreated)] = &huma.Response{Description: "Created", Content: success.Content}
	}
	op.Responses["default"] = &huma.Response{Description: "What is wrong, and the way out",
		Content: map[string]*huma.MediaType{"application/problem+json": {Schema: d.problem}}}
	if !rt.open {
		for _, r := range op.Responses {
			r.Headers = map[string]*huma.Param{api.HeaderRevision: {Description: "Revision of the store the answer is as of.", Schema: text()}}
		}
	}
	return op
}

func (d *describer) content(t reflect.Type, media string) map[string]*huma.MediaType {
	m := &huma.MediaType{}
	if t != nil {
		m.Schema = d.registry.Schema(t, true, "")
	}
	return map[string]*huma.MediaType{media: m}
}

// listOf is the shape of a list.
func (d *describer) listOf(t reflect.Type) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Required: []string{"items", "revision"}, Properties: map[string]*huma.Schema{
		"items":    {Type: huma.TypeArray, Items: d.registry.Schema(t, true, "")},
		"revision": {Type: huma.TypeInteger, Format: "int64", Description: "The list is as everything was here: watch from it."},
		"continue": {Type: huma.TypeString, Description: "Leads to the next page."},
	}}
}

// changeOf is the shape of one line of a watch.
func (d *describer) changeOf(t reflect.Type) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Required: []string{"type", "revision"}, Properties: map[string]*huma.Schema{
		"type": {Type: huma.TypeString, Enum: []any{string(api.EventPut), string(api.EventDelete), string(api.EventBookmark), string(api.EventError)},
			Description: "A bookmark says that nothing up to its revision was missed; an error ends the watch."},
		"revision": {Type: huma.TypeInteger, Format: "int64", Description: "Go on from here after a break."},
		"object":   d.registry.Schema(t, true, ""),
		"error":    d.problem,
	}}
}

// operationID is unique and stable: put-namespaces-apps-status.
func operationID(rt route) string {
	id := strings.ToLower(rt.method)
	for part := range strings.SplitSeq(strings.TrimPrefix(rt.path, "/v1"), "/") {
		switch {
		case part == "" || part == "namespaces" && strings.Contains(rt.path, "{namespace}"):
		case part == "{namespace}":
			id += "-namespaced"
		case part == "{name}":
			id += "-one"
		case part == "{hash}":
		default:
			id += "-" + strings.ReplaceAll(part, ".", "-")
		}
	}
	return id
}
