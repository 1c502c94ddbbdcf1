// Package cron says when a schedule ticks: five fields as cron has them, read
// on the clocks of a time zone.
//
// Invariants: a tick is one moment, and Next finds each exactly once; a
// schedule with given hours ticks once on every day it names, also where
// clocks change: a time that is skipped ticks when the clocks jump, one that
// comes twice the first time. One that ticks in every hour goes by real time.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a server or container may have no zones

	parser "github.com/robfig/cron/v3"
)

// Schedule is when something ticks.
type Schedule struct {
	fields *parser.SpecSchedule
	zone   *time.Location
	hourly bool // in every hour
}

const everyHour = 1<<24 - 1

// Parse reads the five fields minute, hour, day of month, month and day of
// week. The zone has an IANA name; "" is UTC.
func Parse(fields, zone string) (Schedule, error) {
	if n := len(strings.Fields(fields)); n != 5 {
		return Schedule{}, fmt.Errorf("%q has %d fields: want 5, minute, hour, day of month, month and day of week, such as \"15 2 * * *\"", fields, n)
	}
	loc, err := Zone(zone)
	if err != nil {
		return Schedule{}, err
	}
	p, err := parser.NewParser(parser.Minute | parser.Hour | parser.Dom | parser.Month | parser.Dow).Parse(fields)
	if err != nil {
		return Schedule{}, fmt.Errorf("%q: %w", fields, err)
	}
	s := Schedule{fields: p.(*parser.SpecSchedule), zone: loc}
	s.hourly = s.fields.Hour&everyHour == everyHour
	s.fields.Location = time.UTC
	if s.hourly {
		s.fields.Location = loc
	}
	if s.Next(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("%q never comes: no month of it has such a day", fields)
	}
	return s, nil
}

// Zone finds a time zone by its IANA name; "" is UTC.
func Zone(name string) (*time.Location, error) {
	if name == "Local" { // of whichever machine looks
		return nil, errors.New("\"Local\" is not a time zone: want an IANA name such as Europe/Berlin")
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time zone: want an IANA name such as Europe/Berlin", name)
	}
	return loc, nil
}

// Next returns the first tick after t, in UTC.
func (s Schedule) Next(t time.Time) time.Time {
	if s.hourly {
		next := s.fields.Next(t.In(s.zone))
		if next.IsZero() {
			return next
		}
		return next.UTC()
	}
	for wall := reading(t.In(s.zone)); ; {
		if wall = s.fields.Next(wall); wall.IsZero() {
			return wall
		}
		if at := s.moment(wall); at.After(t) {
			return at
		}
	}
}

// reading is what a clock shows at t, written as if it were UTC.
func reading(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment is when the zone's clocks show a reading: for the first time, or if
// they skip it, when they do.
func (s Schedule) moment(wall time.Time) time.Time {
	y, m, d := wall.Date()
	at := time.Date(y, m, d, wall.Hour(), wall.Minute(), 0, 0, s.zone)
	start, end := at.ZoneBounds()
	switch shown := reading(at); {
	case shown.After(wall): // skipped, and at is after the jump
		at = start
	case shown.Before(wall):
		at = end
	case !start.IsZero(): // clocks may have shown it before they were set back
		_, offset := start.Add(-1).Zone()
		if first := wall.Add(-time.Duration(offset) * time.Second); first.Before(start) {
			at = first
		}
	}
	return at.UTC()
}
