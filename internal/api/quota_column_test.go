package api

import "testing"

// TestQuotaColumn: what is used is said, and the limit where there is one.
func TestQuotaColumn(t *testing.T) {
	for want, of := range map[string]struct {
		quota Quota
		used  Used
	}{
		"-":                                 {},
		"cpu 100m, replicas 2":              {used: Used{CPU: "100m", Replicas: 2}},
		"cpu 0/4, replicas 2/10, volumes 1": {Quota{CPU: "4", Replicas: new(10)}, Used{Replicas: 2, Volumes: 1}},
		"memory 64Mi/1Gi, storage 0/2Gi":    {Quota{Memory: "1Gi", Storage: "2Gi"}, Used{Memory: "64Mi"}},
	} {
		if got := of.quota.column(of.used); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
