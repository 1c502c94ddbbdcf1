package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// fill sets everything v has to something.
func fill(v reflect.Value, deep int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), deep)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), deep)
			}
		}
	case reflect.Map:
		if deep == 0 {
			return
		}
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, deep-1)
		fill(e, deep-1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte("{}"))
		} else if deep > 0 {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, deep-1)
			v.Set(reflect.Append(v, e))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1)
	}
}

// grow adds to raw, which is a t, a field of a later version wherever t has
// fields, and counts them.
func grow(raw []byte, t reflect.Type, n *int) json.RawMessage {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case len(raw) == 0 || raw[0] != '{' && raw[0] != '[' || t == reflect.TypeFor[json.RawMessage]():
		return raw
	case raw[0] == '[':
		var all []json.RawMessage
		_ = json.Unmarshal(raw, &all)
		for i := range all {
			all[i] = grow(all[i], t.Elem(), n)
		}
		b, _ := json.Marshal(all)
		return b
	}
	var all map[string]json.RawMessage
	_ = json.Unmarshal(raw, &all)
	if t.Kind() == reflect.Map {
		for k := range all {
			all[k] = grow(all[k], t.Elem(), n)
		}
	} else {
		for _, f := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); all[name] != nil {
				all[name] = grow(all[name], f.Type, n)
			}
		}
		all["later"] = json.RawMessage(`{"it":[1,"is"]}`)
		*n++
	}
	b, _ := json.Marshal(all)
	return b
}

// says is a server that gives one answer.
func says(body []byte) *Client {
	return InProcess(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
}

// TestNewerServersAreUnderstood: whatever a server of a newer version says more,
// of any object and in any other answer, changes nothing of what is known of it;
// nor does a word it says where one of several is expected break a table.
func TestNewerServersAreUnderstood(t *testing.T) {
	answers := map[string]any{
		"problem": &api.Error{}, "batch": &api.BatchAnswer{}, "drained": &api.DrainedAnswer{}, "lease": &api.LeaseAnswer{}, "version": &api.ContentVersion{},
		"usage": &api.UsageAnswer{}, "images": &api.NodeImages{}, "progress": &api.ImageProgress{}, "why": &api.Explanation{}, "plan": &api.WritePlan{},
		"keys": &api.Keys{}, "rebalance": &api.Rebalance{}, "pods": &api.List[*api.Pod]{},
	}
	for _, k := range api.Kinds {
		answers[k.Info().Plural+"/x"] = k.New()
	}
	for path, empty := range answers {
		of := reflect.TypeOf(empty)
		full := reflect.New(of.Elem())
		fill(full.Elem(), 4)
		today, err := json.Marshal(full.Interface())
		if err != nil {
			t.Fatal(err)
		}
		more := 0
		later := grow(today, of, &more)
		was, is := reflect.New(of.Elem()).Interface(), reflect.New(of.Elem()).Interface()
		if err := json.Unmarshal(today, was); err != nil {
			t.Fatal(err)
		}
		if err := says(later).Call(t.Context(), http.MethodGet, "/v1/"+path, nil, nil, is); err != nil || more == 0 || !reflect.DeepEqual(was, is) {
			t.Errorf("%s with %d more fields: %v\n%+v, was\n%+v", path, more, err, is, was)
		}
		if o, ok := is.(api.Any); ok {
			k, err := api.Lookup(strings.TrimSuffix(path, "/x"))
			if err != nil || len(k.Row(o, true)) != len(k.Header(true)) {
				t.Errorf("%s: %v, its row is %q", path, err, k.Row(o, true))
			}
		}
	}
}

// TestWatchPassesOverWhatItDoesNotKnow: lines of a type that only newer clients
// know are none of those that this one expects.
func TestWatchPassesOverWhatItDoesNotKnow(t *testing.T) {
	const pod = `"object":{"kind":"Pod","meta":{"name":"web","later":1},"later":{}}`
	lines := []string{
		`{"type":"hint","revision":3}`, `{"type":"moved",` + pod + `,"revision":4}`, `{"type":"put",` + pod + `,"revision":5,"later":1}`, `{"type":"put","revision":6}`,
		`{"type":"bookmark","revision":7,"later":1}`, `{"type":"delete",` + pod + `,"revision":8}`,
	}
	var got []string
	for ev, err := range Of(says([]byte(strings.Join(lines, "\n"))), api.Pods).Watch(t.Context(), "", nil, 1) {
		if err != nil {
			got = append(got, err.Error())
			break
		}
		got = append(got, fmt.Sprint(ev.Type, ev.Revision, ev.Object != nil && ev.Object.Meta.Name == "web"))
	}
	if want := []string{"put5 true", "bookmark7 false", "delete8 true", "watch of pods ended"}; !reflect.DeepEqual(got, want) {
		t.Errorf("saw %q, want %q", got, want)
	}
}

// TestAPartIsSentAlone: a server that is older than this client is not told of
// the rest of a status, which it might not know, and need not.
func TestAPartIsSentAlone(t *testing.T) {
	for part, want := range map[string]string{"health": `{"health":{"verdict":"ready"}}`, "off": `{}`} {
		var sent struct {
			Kind   string
			Meta   api.Meta
			Status json.RawMessage
		}
		c := InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || r.URL.Path != "/v1/nodes/w1/"+part {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			w.Write([]byte("{}"))
		}))
		n := &api.Node{Meta: api.Meta{Name: "w1", UID: "u"}, Status: api.NodeStatus{Address: "10.0.0.1", Health: api.NodeHealth{Verdict: api.VerdictReady}}}
		if _, err := Of(c, api.Nodes).PutPart(t.Context(), n, part); err != nil {
			t.Fatal(err)
		}
		if string(sent.Status) != want || sent.Kind != "Node" || sent.Meta.UID != "u" {
			t.Errorf("%s: sent %+v, its status is %s, want %s", part, sent, sent.Status, want)
		}
	}
}
