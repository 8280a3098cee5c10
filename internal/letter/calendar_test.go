package letter

import "testing"

func TestCalendars(t *testing.T) {
	for object, want := range map[string]string{ // the method, empty where the object is refused
		"BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR":                           "REQUEST",
		"BEGIN:VCALENDAR\r\nMETHOD:REQ\r\n UEST\r\nEND:VCALENDAR\r\n":              "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD:REQ\n UEST\nEND:VCALENDAR\n":                      "REQUEST",
		"BEGIN:VCALENDAR\nMETH\n OD:REQUEST\nEND:VCALENDAR\n":                      "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD\n\t:REPLY\nEND:VCALENDAR\n":                       "REPLY",
		"BEGIN:VCAL\n ENDAR\nMETHOD:REQUEST\nEND:VCALE\n NDAR\n":                   "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD;X=\"a:b\":REQUEST\nEND:VCALENDAR\n":               "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD;X=\"a;b\";Y=c:Request\nEND:VCALENDAR\n":           "REQUEST",
		"BEGIN:VCALENDAR\rMETHOD:REQUEST\rEND:VCALENDAR\r":                         "REQUEST",
		"BEGIN:VCALENDAR \t\nMETHOD:REQUEST \nEND:VCALENDAR \n\n":                  "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD:REQUEST\nX-NOTE:a\n METHOD:REPLY\nEND:VCALENDAR":  "REQUEST",
		"BEGIN:VCALENDAR\nMETHOD:REQUEST\nMETH\n OD:REPLY\nEND:VCALENDAR":          "",
		"BEGIN:VCALENDAR\nMETHOD;X=\"a:REQUEST\nEND:VCALENDAR\n":                   "",
		"BEGIN:VCALENDARS\nMETHOD:REQUEST\nEND:VCALENDAR\n":                        "",
		"BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n X\n":                     "",
		" BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n":                        "",
		"BEGIN:VCALENDAR\nBEGIN:VEVENT\nMETHOD:REQUEST\nEND:VEVENT\nEND:VCALENDAR": "",
	} {
		got, method, err := ParseCalendar(object)
		if method != want || (err == nil) != (want != "") || err == nil && got != object {
			t.Errorf("%q has the method %q (%v), want %q", object, method, err, want)
		}
	}
}
