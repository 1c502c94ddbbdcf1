package api

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// ImageRef is an image reference in parts, completed as every registry client
// does: nginx is docker.io, library/nginx, latest.
type ImageRef struct {
	Registry   string `json:"registry" doc:"Host, and port if it has one, of the registry."`
	Repository string `json:"repository" doc:"Path of the image in the registry, such as library/nginx."`
	Tag        string `json:"tag" doc:"Tag; empty when only a digest was given."`
	Digest     string `json:"digest" doc:"Digest, such as sha256:…; empty when none was given."`
}

// Where an image without a registry comes from, and which of its tags.
const (
	DefaultRegistry = "docker.io"
	DefaultTag      = "latest"
)

// ParseImage splits an image reference.
func ParseImage(ref string) (ImageRef, error) {
	if err := checkImage(ref); err != nil {
		return ImageRef{}, err
	}
	var r ImageRef
	rest, digest, _ := strings.Cut(ref, "@")
	r.Digest = digest
	if at := strings.LastIndex(rest, ":"); at > strings.LastIndex(rest, "/") {
		rest, r.Tag = rest[:at], rest[at+1:]
	}
	if r.Tag == "" && digest == "" {
		r.Tag = DefaultTag
	}
	r.Registry, r.Repository = DefaultRegistry, rest
	if host, path, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		r.Registry, r.Repository = host, path
	}
	if r.Registry == DefaultRegistry && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	return r, nil
}

// String is the whole reference: docker.io/library/nginx:latest.
func (r ImageRef) String() string {
	s := r.Registry + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// ImageName makes the name of the Image object of a whole reference: readable,
// and unique.
func ImageName(ref string) string {
	h := fnv.New32a()
	h.Write([]byte(ref))
	base := ref[strings.LastIndex(ref, "/")+1:]
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(base[:min(len(base), 48)]))
	return fmt.Sprintf("i-%s-%08x", strings.Trim(base, "-"), h.Sum32())
}
