package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestOpenAPIIsCurrent: openapi.json beside this test is what the server
// serves. Rewrite it with: go test ./clusterd/apiserver -run OpenAPI -update
func TestOpenAPIIsCurrent(t *testing.T) {
	got, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	const file = "openapi.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s is not current (%v): run go test ./clusterd/apiserver -run OpenAPI -update", file, err)
	}
	var doc struct {
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(got, &doc); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			if op.OperationID == "" || seen[op.OperationID] {
				t.Errorf("%s %s has no operation id of its own: %q", method, path, op.OperationID)
			}
			seen[op.OperationID] = true
		}
	}
	for name := range doc.Components.Schemas {
		if !regexp.MustCompile(`^[A-Za-z0-9]+$`).MatchString(name) {
			t.Errorf("schema %q has no proper name", name)
		}
	}
	for _, ref := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllSubmatch(got, -1) {
		if doc.Components.Schemas[string(ref[1])] == nil {
			t.Errorf("%s is referred to and does not exist", ref[0])
		}
	}
}

// TestOpenAPIIsTrue: what the server answers, on every path and to every kind,
// is what the description says, and carries its revision.
func TestOpenAPIIsTrue(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, _ *client.Client) {
		doc := s.describe()
		ask := func(method, pattern, path, body string, header ...string) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			if strings.Contains(path, "watch=true") {
				time.AfterFunc(roundEvery+time.Second, cancel)
			}
			w := httptest.NewRecorder()
			s.InProcess(system).ServeHTTP(w, r)
			if err := described(doc, pattern, method, w); err != nil {
				t.Errorf("%s %s: %d %s: %v", method, path, w.Code, w.Body, err)
			}
		}
		served := map[string]bool{}
		for _, k := range api.Kinds {
			i := k.Info()
			all, one := "/v1/"+i.Plural, "/v1/"+i.Plural+"/{name}"
			if i.Scope == api.Namespaced {
				one = "/v1/namespaces/{namespace}/" + i.Plural + "/{name}"
			}
			path := strings.NewReplacer("{namespace}", "default", "{name}", "thing").Replace(one)
			spec := sample(i)
			if i.Name == api.EventRings.Name {
				spec = `{"subject":{"kind":"Node","name":"w1"}}`
			}
			var whole struct{ Status json.RawMessage }
			if b, err := json.Marshal(k.New()); err != nil || json.Unmarshal(b, &whole) != nil {
				t.Fatal(err)
			}
			status := `{"status":` + string(whole.Status) + `}`
			served[all], served[one], served[one+"/status"] = true, true, true
			ask("GET", one, path, "")
			ask("PUT", one, path, `{"spec":{"bogus":1}}`)
			ask("PUT", one, path, `{"meta":{"labels":{"team":"a"}},"spec":`+spec+`}`, "If-None-Match", "*")
			ask("PUT", one, path, `{"spec":`+spec+`}`, "If-None-Match", "*")
			ask("PUT", one, path, `{"spec":`+spec+`}`, "If-Match", "7")
			ask("PUT", one, path, `{"spec":`+spec+`}`)
			ask("GET", one, path, "")
			ask("GET", all, all+"?limit=1", "")
			ask("GET", all, all+"?watch=true", "")
			ask("GET", all, all+"?bogus=1", "")
			ask("PUT", one+"/status", path+"/status", status)
			for _, part := range i.Parts {
				served[one+"/"+part] = true
				ask("PUT", one+"/"+part, path+"/"+part, status)
			}
			ask("DELETE", one, path, "")
			ask("DELETE", one, path+"?final=true", "")
		}
		for pattern, item := range doc.Paths {
			path := strings.NewReplacer("{namespace}", "default", "{name}", "thing").Replace(pattern)
			switch {
			case served[pattern]:
			case item.Get != nil:
				ask("GET", pattern, path, "")
			case item.Post != nil:
				ask("POST", pattern, path, `{}`)
			}
		}
		ask("POST", "/v1/batch", "/v1/batch", `{"writes":[{"create":{"kind":"Namespace","meta":{"name":"shop"},"spec":{}}}]}`)
		ask("POST", "/v1/events", "/v1/events", `{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"tried","message":"once"}}`)
		ask("POST", "/v1/nodes/{name}/applied", "/v1/nodes/w1/applied", `{"revision":1}`)
	})
}

// described returns how an answer differs from the description of its path.
func described(doc *huma.OpenAPI, pattern, method string, w *httptest.ResponseRecorder) error {
	item := doc.Paths[pattern]
	if item == nil {
		return errors.New("the path is not described")
	}
	op := map[string]*huma.Operation{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete}[method]
	if op == nil {
		return errors.New("the method is not described")
	}
	answer := op.Responses[strconv.Itoa(w.Code)]
	if answer == nil && w.Code >= 400 {
		answer = op.Responses["default"]
	}
	if answer == nil {
		return errors.New("the status is not described")
	}
	for name := range answer.Headers {
		if w.Header().Get(name) == "" {
			return fmt.Errorf("the header %s is missing", name)
		}
	}
	if w.Body.Len() == 0 {
		return nil
	}
	media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	content := answer.Content[media]
	if content == nil {
		return fmt.Errorf("the media type %q is not described", media)
	}
	if content.Schema == nil {
		return nil
	}
	content.Schema.PrecomputeMessages()
	for d := json.NewDecoder(w.Body); d.More(); {
		var v any
		if err := d.Decode(&v); err != nil {
			return err
		}
		var found huma.ValidateResult
		huma.Validate(doc.Components.Schemas, content.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &found)
		if len(found.Errors) > 0 {
			return errors.Join(found.Errors...)
		}
	}
	return nil
}
