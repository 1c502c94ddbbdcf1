package journal

import (
	"os"
	"testing"
	"time"
)

func TestSaveLoadRemove(t *testing.T) {
	dir := t.TempDir() + "/journal"
	if r, err := Load(dir, "a.main.0"); r != nil || err != nil {
		t.Errorf("never started: %v %v", r, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := Record{StartedAt: at, Exit: &Exit{Code: 137, At: at.Add(time.Hour)}, OOMAt: at.Add(time.Hour)}
	if err := Save(dir, "a.main.0", want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir, "a.main.0")
	if err != nil || !got.StartedAt.Equal(at) || *got.Exit != *want.Exit || !got.OOM() {
		t.Errorf("got %+v %v", got, err)
	}
	for range 2 {
		if err := Remove(dir, "a.main.0"); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestTornRecordIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(path(dir, "a"), []byte(`{"started_at":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, "a"); err == nil {
		t.Error("took half a record")
	}
}

func TestOOM(t *testing.T) {
	end := time.Now()
	for name, c := range map[string]struct {
		record Record
		want   bool
	}{
		"itself":                  {Record{Exit: &Exit{137, end}, OOMAt: end.Add(-100 * time.Millisecond)}, true},
		"the notice came late":    {Record{Exit: &Exit{137, end}, OOMAt: end.Add(100 * time.Millisecond)}, true},
		"a child, and it gave up": {Record{Exit: &Exit{1, end}, OOMAt: end.Add(-time.Second)}, true},
		"a child, an hour ago":    {Record{Exit: &Exit{143, end}, OOMAt: end.Add(-time.Hour)}, false},
		"a child, and it is done": {Record{Exit: &Exit{0, end}, OOMAt: end.Add(-time.Second)}, false},
		"a child, and it goes on": {Record{OOMAt: end}, false},
		"killed by someone":       {Record{Exit: &Exit{137, end}}, false},
	} {
		if got := c.record.OOM(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
