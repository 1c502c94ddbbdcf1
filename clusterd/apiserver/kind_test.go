package apiserver

import (
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
)

// TestServedAsStored: what is served is what is stored, and its revision,
// whoever wrote it in whatever order.
func TestServedAsStored(t *testing.T) {
	s := &Server{kinds: kindTable()}
	key := s.kinds["configs"].key("default", "a")
	const meta = `"meta":{"name":"a","namespace":"default"}`
	for stored, want := range map[string]string{
		`{"kind":"Config",` + meta + `,"spec":{"data":{"a":"}"}},"effective":{"data":{}},"status":{}}`: `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{"data":{"a":"}"}},"effective":{"data":{}},"status":{}}`,
		`{"kind":"Config",` + meta + `,"spec":{}}`:                                                     `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{}}`,
		`{"kind":"Config",` + meta + `,"later":{},"spec":{}}`:                                          `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"later":{},"spec":{}}`,
		`{"kind":"Config",` + meta + `,"spec":{},"later":{}}`:                                          `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{}}`,
		`{"kind":"Config",` + meta + `,"status":{},"spec":{}}`:                                         `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{},"status":{}}`,
		`{"kind":"Config","meta":{},"spec":{}}`:                                                        `{"kind":"Config","meta":{"revision":7,"name":""},"spec":{}}`,
		`{"kind":"Config","meta":{"name":"a","namespace":"default","revision":6},"spec":{}}`:           `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{}}`,
		` { "spec":{}, ` + meta + `} `:                                                                 `{"kind":"Config","meta":{"revision":7,"name":"a","namespace":"default"},"spec":{}}`,
	} {
		o, err := s.decode(store.Entry{Key: key, Value: []byte(stored), Revision: 7})
		if err != nil {
			t.Errorf("%s: %v", stored, err)
			continue
		}
		if string(o.body) != want || string(o.value) != "" {
			t.Errorf("%s is served as\n%s, want\n%s", stored, o.body, want)
		}
		typed, err := o.typed()
		if err != nil || typed.GetMeta().Revision != 7 || typed.GetMeta().Name != o.meta.Name {
			t.Errorf("%s: %+v, %v", stored, typed, err)
		}
	}
}
