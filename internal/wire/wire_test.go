package wire

import (
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// FuzzAsEncodingJSON: what encoding/json reads is read, and means the same. Left
// out is what has a name twice: nobody writes it, and of two values of a name
// encoding/json takes the last, where this fills the first with both.
func FuzzAsEncodingJSON(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"a":{"b":[true,null,"x"]}}`, "\"\xff\"", `"\ud800"`, ` [1e3, -0.5, "\u00e9"] `, `{"a":}`, `{} {}`, `01`, `nul`, "", `"a` + "\n" + `"`, `1e999`, `{"":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if errors.Is(jsonv2.Unmarshal(raw, new(any), jsontext.AllowInvalidUTF8(true)), jsontext.ErrDuplicateName) {
			t.Skip()
		}
		var want, got any
		wanted, err := json.Unmarshal(raw, &want), Unmarshal(raw, &got)
		if (wanted == nil) != (err == nil) {
			t.Fatalf("%q: %v, want %v", raw, err, wanted)
		}
		if wanted == nil && !reflect.DeepEqual(want, got) {
			t.Errorf("%q is %#v, want %#v", raw, got, want)
		}
	})
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	var got struct {
		Known string `json:"known"`
	}
	if err := Read(strings.NewReader(`{"later":{"it":[1]},"known":"x"}`+"\n"), &got); err != nil || got.Known != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestNamesMayHaveAnotherCase: fields without a tag are found, too.
func TestNamesMayHaveAnotherCase(t *testing.T) {
	var got struct{ Items []struct{ Name string } }
	if err := Unmarshal([]byte(`{"items":[{"name":"x"}]}`), &got); err != nil || len(got.Items) != 1 || got.Items[0].Name != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStreamEndsAfterTheLast(t *testing.T) {
	next := Stream(strings.NewReader("{\"n\":1}\n{\"n\":2}\n{\"n\":"))
	for want := 1; ; want++ {
		var got struct {
			N int `json:"n"`
		}
		err := next(&got)
		if want == 3 {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("half a line: %v", err)
			}
			break
		}
		if err != nil || got.N != want {
			t.Fatalf("%+v, %v, want %d", got, err, want)
		}
	}
	if err := Stream(strings.NewReader("\n"))(new(any)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
