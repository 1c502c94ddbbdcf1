package apiserver

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

func TestStrict(t *testing.T) {
	type inner struct {
		N *int      `json:"n"`
		T time.Time `json:"t"`
	}
	type outer struct {
		inner
		S    string           `json:"s"`
		List []inner          `json:"list"`
		Map  map[string]inner `json:"map"`
		Raw  json.RawMessage  `json:"raw"`
		B    []byte           `json:"b"`
		F    float64          `json:"f"`
		U    uint8            `json:"u"`
	}
	for _, tc := range []struct{ in, want string }{
		{`{}`, ""},
		{`null`, ""},
		{`{"n":1,"s":"x","list":[{"n":2}],"map":{"k":{"n":3}},"raw":{"any":[1]},"b":"aGk=","f":1.5,"u":255,"t":"2026-01-01T00:00:00Z"}`, ""},
		{`{"s":null,"n":null,"list":null,"map":null}`, ""},
		{`{"n":1.5}`, "n: want a whole number"},
		{`{"n":99999999999999999999}`, "n: want a whole number"},
		{`{"u":256}`, "u: want a whole number that is not negative"},
		{`{"u":-1}`, "u: want a whole number that is not negative"},
		{`{"f":1e999}`, "f: the number is out of range"},
		{`{"S":"x"}`, "S: unknown field: did you mean s?"},
		{`{"s":"a","s":"b"}`, "s: given twice"},
		{`{"list":[{},{"m":1}]}`, "list[1].m: unknown field: did you mean f?"},
		{`{"map":{"a b":{"x":1}}}`, `map["a b"].x: unknown field: did you mean f?`},
		{`{"list":{"a":1}}`, "list: want a list, not an object"},
		{`{"map":[1,{"x":2}]}`, "map: want an object, not a list"},
		{`{"t":"yesterday"}`, "t: not a valid time"},
		{`{"b":[1,2]}`, "b: want a string in base64, not a list"},
		{`[]`, ": want an object, not a list"},
		{`{"s":"x"`, ": not valid JSON: it ends too early"},
		{``, ": not valid JSON: it ends too early"},
		{`{"s":x}`, ": not valid JSON after byte 5"},
		{`{} {}`, ": not valid JSON after byte 4"},
	} {
		got := strict([]byte(tc.in), reflect.TypeFor[outer](), "").Error()
		if got != tc.want && !(strings.Contains(tc.want, "did you mean f") && strings.HasPrefix(got, strings.Split(tc.want, ": did")[0])) {
			t.Errorf("%s:\n got %q\nwant %q", tc.in, got, tc.want)
		}
	}
}

// TestFits: what is plain and right takes the short way, whatever its white
// space; a mistake at any byte does not get through on it.
func TestFits(t *testing.T) {
	for name, spec := range samples {
		k, err := api.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		of := k.Info().Spec
		var spaced bytes.Buffer
		if err := json.Indent(&spaced, []byte(spec), " ", "\t"); err != nil {
			t.Fatal(err)
		}
		for _, raw := range [][]byte{[]byte(spec), spaced.Bytes()} {
			if !fits(raw, of) {
				t.Errorf("%s: the short way does not take %s", name, raw)
			}
			for i := range raw {
				for _, c := range []byte(`x"{}[]:,0 `) {
					bad := bytes.Clone(raw)
					bad[i] = c
					if errs := misfits(bad, of, ""); len(errs) > 0 && fits(bad, of) {
						t.Errorf("%s: the short way takes %s: %v", name, bad, errs)
					}
				}
			}
		}
	}
}

func BenchmarkStrict(b *testing.B) {
	raw := []byte(`{"image":"docker.io/library/nginx:1.27","cpu":"50m","memory":"32Mi","replicas":100,"env":{"A":"b","LONGER_NAME":"and a longer value"},"ports":{"http":"80"}}`)
	for name, f := range map[string]func(){
		"walker": func() { misfits(raw, api.Apps.Info().Spec, "spec") },
		"strict": func() { strict(raw, api.Apps.Info().Spec, "spec") },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// FuzzStrict: what strict accepts is decoded, as encoding/json would, for every
// kind; and no input makes either fall over.
func FuzzStrict(f *testing.F) {
	for _, spec := range samples {
		f.Add([]byte(spec))
	}
	f.Add([]byte(`{"image":"x","env":{"A":"b"},"sidecars":{"l":{"ports":{"h":"80"}}},"update":{"surge":0},"replicas":1e3}`))
	f.Add([]byte(`{"replicas":1.0,"health":{"tcp":true},"command":[null]}`))
	f.Add([]byte("{\"a\":[[[[[[[[[[[{}]]]]]]]]]]]}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, k := range api.Kinds {
			errs := misfits(raw, k.Info().Spec, "spec")
			if len(errs) > 0 && fits(raw, k.Info().Spec) {
				t.Errorf("%s: the short way takes %q: %v", k.Info().Name, raw, errs)
			}
			spec, want := reflect.New(k.Info().Spec).Interface(), reflect.New(k.Info().Spec).Interface()
			err, wanted := wire.Unmarshal(raw, spec), json.Unmarshal(raw, want)
			if len(errs) == 0 && (err != nil || wanted != nil || !reflect.DeepEqual(spec, want)) {
				t.Errorf("%s: strict takes %q: %v, %v, %+v, want %+v", k.Info().Name, raw, err, wanted, spec, want)
			}
			_, _ = openSpec(&kind{AnyKind: k, info: k.Info()}, "default", "x", append(append([]byte(`{"spec":`), raw...), '}'))
		}
	})
}

// FuzzOpen: no body makes the server fall over, or store what it cannot read.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"kind":"App","meta":{"name":"web","labels":{"a":"b"}},"spec":{"image":"n:1"},"status":{"ready":1}}`))
	f.Add([]byte(`{"meta":{"owner":{"kind":"App","name":"x"},"deleted_at":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k := &kind{AnyKind: api.Apps, info: api.Apps.Info()}
		in, err := openSpec(k, "default", "web", raw)
		if err != nil {
			return
		}
		o := &object{kind: k, meta: in.meta, spec: in.spec}
		var back envelope
		if err := json.Unmarshal(o.encode(), &back); err != nil || !sameJSON(back.Spec, in.spec) {
			t.Errorf("%q is stored as %s: %v", raw, o.encode(), err)
		}
	})
}
