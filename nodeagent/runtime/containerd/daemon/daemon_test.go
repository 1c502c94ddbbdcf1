package daemon

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// TestTwoDaemonsShareNothing: every path in a configuration is below the
// daemon's own directories.
func TestTwoDaemonsShareNothing(t *testing.T) {
	c := Config{DataDir: "/var/lib/w1", RunDir: "/run/w1"}
	b := c.toml()
	paths := 0
	for line := range strings.Lines(string(b)) {
		_, value, _ := strings.Cut(line, ` = "`)
		if value == "" {
			continue
		}
		paths++
		if value = strings.Trim(value, "\"\n"); !strings.HasPrefix(value, c.DataDir) && !strings.HasPrefix(value, c.RunDir) {
			t.Errorf("%s", line)
		}
	}
	if paths != 6 || !bytes.Contains(b, []byte("imports = []")) {
		t.Errorf("%d paths in\n%s", paths, b)
	}
}

func TestPrepareRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"must be absolute": {DataDir: "/d", RunDir: "r"},
		"too long":         {DataDir: "/d", RunDir: filepath.Join("/tmp", strings.Repeat("x", 60))},
	} {
		if _, err := c.Prepare(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := Main(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v", err)
	}
}
