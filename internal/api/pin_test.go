package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawTemplate draws what is declared: a reference may be anything, and be
// there more than once, with a digest or without.
func drawTemplate(t *rapid.T) PodTemplate {
	ref := rapid.Custom(func(t *rapid.T) string {
		r := rapid.SampledFrom([]string{"nginx", "nginx:1", "r.example:5000/a/b:2", strings.Repeat("long", 125)}).Draw(t, "reference")
		if rapid.IntRange(0, 3).Draw(t, "digest") == 0 && len(r) < 400 {
			r += "@" + testDigest(9)
		}
		return r
	})
	p := PodTemplate{Container: Container{Image: ref.Draw(t, "main")}, Init: map[string]Init{}, Sidecars: map[string]Container{}}
	for i := range rapid.IntRange(0, 2).Draw(t, "init") {
		image := ""
		if rapid.Bool().Draw(t, "own") {
			image = ref.Draw(t, "init image")
		}
		p.Init[fmt.Sprintf("i%d", i)] = Init{Image: image}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "sidecars") {
		p.Sidecars[fmt.Sprintf("s%d", i)] = Container{Image: ref.Draw(t, "sidecar image")}
	}
	return p
}

func testDigest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// Whatever digests are found for what floats: they are read back from the two
// templates as they were put in, nothing floats any more but what nobody knows,
// every reference stays one that pods may have, and to pin twice changes nothing.
func TestPinnedIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		declared := drawTemplate(t)
		effective := Clone(declared).withDefaults()
		before := Clone(effective)
		images := map[string]string{}
		for i, ref := range effective.Floating() {
			if rapid.Bool().Draw(t, "known") {
				images[ref] = testDigest(i)
			}
		}
		pinned := effective.Pinned(images)
		if !reflect.DeepEqual(effective, before) {
			t.Fatal("the template itself changed")
		}
		maps.DeleteFunc(images, func(ref, digest string) bool { return len(ref)+1+len(digest) > maxImage })
		if got := DigestsOf(declared, pinned); !maps.Equal(got, images) {
			t.Fatalf("read %v, want %v", got, images)
		}
		for _, ref := range pinned.Floating() {
			if images[ref] != "" {
				t.Fatalf("%s still floats", ref)
			}
		}
		if again := pinned.Pinned(images); !reflect.DeepEqual(again, pinned) {
			t.Fatalf("%+v", again)
		}
		for _, c := range pinned.All() {
			if err := checkImage(c.Image); err != nil {
				t.Fatal(err)
			}
		}
		for _, at := range declared.ImagePaths() {
			if at.Reference == "" {
				t.Fatalf("%s has no image", at.Path)
			}
		}
	})
}

// What is fetched anew before each start has no digest to keep.
func TestAlwaysFloatsNowhere(t *testing.T) {
	p := PodTemplate{Container: Container{Image: "nginx:1"}, Init: map[string]Init{"a": {}}, Sidecars: map[string]Container{"log": {Image: "log"}}}.withDefaults()
	if got := p.Floating(); !slices.Equal(got, []string{"log", "nginx:1"}) {
		t.Errorf("%v", got)
	}
	p.Pull = PullAlways
	if got := p.Floating(); got != nil {
		t.Errorf("%v", got)
	}
}

func TestShortImage(t *testing.T) {
	for ref, want := range map[string]string{"nginx:1": "nginx:1", "nginx:1@" + testDigest(1): "nginx:1@sha256:000000000000"} {
		if got := ShortImage(ref); got != want {
			t.Errorf("%s is %s", ref, got)
		}
	}
}
