package cron

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestNext: ticks are moments, also on the days clocks change.
func TestNext(t *testing.T) {
	for name, test := range map[string]struct {
		fields, zone, after string
		want                []string
	}{
		"every day":  {"15 2 * * *", "", "2026-01-01T00:00:00Z", []string{"2026-01-01T02:15:00Z", "2026-01-02T02:15:00Z"}},
		"not itself": {"15 2 * * *", "", "2026-01-01T02:15:00Z", []string{"2026-01-02T02:15:00Z"}},
		"a zone":     {"0 9 * * mon-fri", "Asia/Tokyo", "2026-01-02T00:00:00Z", []string{"2026-01-05T00:00:00Z"}},
		"either day": {"0 0 13 * fri", "", "2026-02-01T00:00:00Z", []string{"2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"}},
		"leap day":   {"0 0 29 2 *", "", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		// 2026-03-29 in Berlin: at 02:00 clocks jump to 03:00.
		"skipped": {"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		"skipped and many": {"*/20 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z",
			[]string{"2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z", "2026-03-29T01:40:00Z", "2026-03-30T00:00:00Z"}},
		// 2026-10-25 in Berlin: at 03:00 clocks are set back to 02:00.
		"twice":           {"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		"between the two": {"30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", []string{"2026-10-26T01:30:00Z"}},
		"every hour, set back": {"30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z",
			[]string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		"every hour, skipped": {"30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z",
			[]string{"2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"}},
		// Clocks that jump at midnight.
		"midnight is skipped": {"0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", []string{"2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse(test.fields, test.zone)
			if err != nil {
				t.Fatal(err)
			}
			now := at(t, test.after)
			for _, want := range test.want {
				if now = s.Next(now); !now.Equal(at(t, want)) {
					t.Fatalf("got %s, want %s", now.Format(time.RFC3339), want)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range [][2]string{{"* * * *", ""}, {"0 * * * * *", ""}, {"@daily", ""}, {"61 * * * *", ""}, {"0 0 30 2 *", ""},
		{"TZ=UTC * * * *", ""}, {"a b c d e", ""}, {"0 0 * * *", "Local"}, {"0 0 * * *", "Mars/Olympus"}, {"0 0 * * *", "../etc"}} {
		if _, err := Parse(bad[0], bad[1]); err == nil {
			t.Errorf("%q in %q is taken", bad[0], bad[1])
		}
	}
}

// TestNextIsOneSeries: from wherever one looks, the ticks are the same ones,
// and always ahead; a day that is named has its tick.
func TestNextIsOneSeries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SampledFrom([]string{"30 2 * * *", "0 0 * * *", "*/15 1-3 * * *", "17 * * * *", "0 12 1 * *", "59 23 * * sun", "5 2 * 3,10 *"}).Draw(t, "fields")
		zone := rapid.SampledFrom([]string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Sao_Paulo", "Asia/Kathmandu"}).Draw(t, "zone")
		s, err := Parse(fields, zone)
		if err != nil {
			t.Fatal(err)
		}
		from := time.Unix(rapid.Int64Range(1_500_000_000, 2_100_000_000).Draw(t, "from"), 0)
		first := s.Next(from)
		second := s.Next(first)
		if !first.After(from) || !second.After(first) {
			t.Fatalf("%s, %s, %s", from, first, second)
		}
		between := first.Add(time.Duration(rapid.Int64Range(0, int64(second.Sub(first)-1)).Draw(t, "between")))
		if got := s.Next(between); !got.Equal(second) {
			t.Fatalf("after %s comes %s, but after %s it is %s", first, second, between, got)
		}
		if fields == "30 2 * * *" && second.Sub(first) > 26*time.Hour {
			t.Fatalf("a day without its tick between %s and %s", first, second)
		}
	})
}
