/*-------------------------------------------------------------------------
 *
 * payload.c
 *	  The payload back out of an entry.
 *
 *	  Most fields of a payload go into columns and can be rebuilt from them.
 *	  When a payload is taken in, what would be rebuilt is compared with what
 *	  came; the difference is kept under the key $payload of the entry's
 *	  context: the fields that differ or have no column, and under $absent the
 *	  names of those that would be rebuilt but were not there.  So whatever
 *	  the rules of rebuilding are, the payload comes back unchanged; they only
 *	  decide how much has to be kept.  They must not be changed, though,
 *	  without regard to entries that are in the log.
 *
 *	  A field that is itself called $absent, $$absent ... is kept under its
 *	  name with one more dollar sign.
 *
 * IDENTIFICATION
 *	  src/collect/payload.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "cdp.h"
#include "collect/extract.h"

PG_FUNCTION_INFO_V1(cdp_payload);

#define MAX_REBUILT		12

/*
 * The fields that the columns of an entry yield.
 */
typedef struct Rebuilt
{
	int			count;
	const char *keys[MAX_REBUILT];
	JsonbValue	values[MAX_REBUILT];
} Rebuilt;

static void
set_string(JsonbValue *value, const char *s, int len)
{
	value->type = jbvString;
	value->val.string.val = (char *) s;
	value->val.string.len = len;
}

static void
push_key(JsonbParseState **state, const char *key, int len)
{
	JsonbValue	value;

	set_string(&value, key, len);
	pushJsonbValue(state, WJB_KEY, &value);
}

static void
set_container(JsonbValue *value, JsonbContainer *container, int len)
{
	value->type = jbvBinary;
	value->val.binary.data = container;
	value->val.binary.len = len;
}

static void
rebuild_string(Rebuilt *rebuilt, const char *key, const char *s, int len)
{
	Assert(rebuilt->count < MAX_REBUILT);
	rebuilt->keys[rebuilt->count] = key;
	set_string(&rebuilt->values[rebuilt->count++], s, len);
}

/*
 * The nth identifier of a kind.
 */
static bool
nth_of_kind(CdpIdentifierList *identifiers, const char *kind, int n,
			const char **value, int *len)
{
	int			kindlen = strlen(kind);
	int			i;

	for (i = 0; i < identifiers->count; i++)
	{
		CdpIdentifier *identifier = (CdpIdentifier *) DatumGetPointer(identifiers->items[i]);
		const char *data = VARDATA_ANY(identifier);

		if (VARSIZE_ANY_EXHDR(identifier) > kindlen && data[kindlen] == ':' &&
			memcmp(data, kind, kindlen) == 0 && n-- == 0)
		{
			*value = data + kindlen + 1;
			*len = VARSIZE_ANY_EXHDR(identifier) - kindlen - 1;
			return true;
		}
	}
	return false;
}

/*
 * A time as JavaScript writes it: 2020-01-01T00:00:00.000Z.  Microseconds
 * are written only where there are some.
 */
static char *
iso_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		return NULL;
	if (tm.tm_year < 0 || tm.tm_year > 9999)
		return psprintf("%c%06d-%02d-%02dT%02d:%02d:%02d.%06dZ",
						tm.tm_year < 0 ? '-' : '+', abs(tm.tm_year), tm.tm_mon,
						tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
	if (fsec % 1000 != 0)
		return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
						tm.tm_year, tm.tm_mon, tm.tm_mday,
						tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
					tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (fsec / 1000));
}

/*
 * mergeProperties of a merge entry.
 */
static void
rebuild_merge(Rebuilt *rebuilt, CdpIdentifierList *identifiers)
{
	JsonbParseState *state = NULL;
	Jsonb	   *array;
	int			i;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < identifiers->count; i++)
	{
		CdpIdentifier *identifier = (CdpIdentifier *) DatumGetPointer(identifiers->items[i]);
		int			kindlen = CdpIdentifierKindLength(identifier);
		const char *data = VARDATA_ANY(identifier);
		JsonbValue	value;

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		push_key(&state, "type", 4);
		set_string(&value, data, kindlen);
		pushJsonbValue(&state, WJB_VALUE, &value);
		push_key(&state, "value", 5);
		set_string(&value, data + kindlen + 1, VARSIZE_ANY_EXHDR(identifier) - kindlen - 1);
		pushJsonbValue(&state, WJB_VALUE, &value);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	rebuilt->keys[rebuilt->count] = "mergeProperties";
	set_container(&rebuilt->values[rebuilt->count++], &array->root, VARSIZE(array) - VARHDRSZ);
}

static void
rebuild(Rebuilt *rebuilt, CdpEntryType type, const char *type_name, int type_len,
		const char *message_id, int message_id_len,
		const char *event, int event_len,
		CdpIdentifierList *identifiers, JsonbValue *body, JsonbValue *context,
		TimestampTz occurred_at, TimestampTz received_at)
{
	const char *value;
	int			len;
	JsonbValue	group;
	bool		alias = type == CDP_ENTRY_ALIAS;

	rebuilt->count = 0;
	if (type_name != NULL)
		rebuild_string(rebuilt, "type", type_name, type_len);
	if (message_id != NULL)
		rebuild_string(rebuilt, "messageId", message_id, message_id_len);
	if (event != NULL)
		rebuild_string(rebuilt,
					   type == CDP_ENTRY_PAGE || type == CDP_ENTRY_SCREEN ? "name" : "event",
					   event, event_len);
	if (type == CDP_ENTRY_MERGE)
		rebuild_merge(rebuilt, identifiers);
	else
	{
		if (nth_of_kind(identifiers, "user_id", 0, &value, &len))
			rebuild_string(rebuilt, "userId", value, len);
		if (alias && nth_of_kind(identifiers, "anonymous_id", 0, &value, &len))
			rebuild_string(rebuilt, "previousId", value, len);
		if (nth_of_kind(identifiers, "anonymous_id", alias ? 1 : 0, &value, &len))
			rebuild_string(rebuilt, "anonymousId", value, len);
		if ((context == NULL ||
			 CdpJsonKey(context->val.binary.data, "groupId", &group) == NULL) &&
			nth_of_kind(identifiers, "group_id", 0, &value, &len))
			rebuild_string(rebuilt, "groupId", value, len);
		if (body != NULL)
		{
			rebuilt->keys[rebuilt->count] =
				type == CDP_ENTRY_IDENTIFY || type == CDP_ENTRY_GROUP ?
				"traits" : "properties";
			rebuilt->values[rebuilt->count++] = *body;
		}
	}
	if (context != NULL)
	{
		rebuilt->keys[rebuilt->count] = "context";
		rebuilt->values[rebuilt->count++] = *context;
	}
	if (occurred_at != received_at && (value = iso_time(occurred_at)) != NULL)
		rebuild_string(rebuilt, "timestamp", value, strlen(value));
}

static bool
same_value(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq,
													NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		case jbvBinary:
			return a->val.binary.data == b->val.binary.data ||
				compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
		default:
			return false;
	}
}

static bool
key_is(const JsonbValue *key, const char *name)
{
	return key->val.string.len == strlen(name) &&
		memcmp(key->val.string.val, name, key->val.string.len) == 0;
}

/*
 * Is the key $absent behind at least one more dollar sign than skip?
 */
static bool
is_absent_key(const JsonbValue *key, int skip)
{
	const char *s = key->val.string.val;
	int			len = key->val.string.len;
	int			namelen = strlen(CDP_PAYLOAD_ABSENT);
	int			i;

	if (len < namelen + skip ||
		memcmp(s + len - namelen, CDP_PAYLOAD_ABSENT, namelen) != 0)
		return false;
	for (i = 0; i < len - namelen; i++)
		if (s[i] != '$')
			return false;
	return true;
}

/*
 * A copy of an object without the key $payload.
 */
static JsonbValue *
push_context(JsonbParseState **state, JsonbContainer *context, bool *any)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	*any = false;
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	if (context == NULL)
		return NULL;
	it = JsonbIteratorInit(context);
	token = JsonbIteratorNext(&it, &value, true);
	Assert(token == WJB_BEGIN_OBJECT);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		JsonbValue	key = value;

		(void) JsonbIteratorNext(&it, &value, true);
		if (key_is(&key, CDP_PAYLOAD_KEY))
			continue;
		*any = true;
		pushJsonbValue(state, WJB_KEY, &key);
		pushJsonbValue(state, WJB_VALUE, &value);
	}
	return NULL;
}

/*
 * The context of the entry that a payload becomes: the payload's own, and
 * under $payload what could not be rebuilt otherwise.  NULL when that is
 * nothing.
 */
Jsonb *
CdpPayloadContext(CdpEntryType type, JsonbContainer *payload,
				  const char *message_id, int message_id_len,
				  const char *event, int event_len,
				  CdpIdentifierList *identifiers,
				  JsonbContainer *body, JsonbContainer *context,
				  TimestampTz occurred_at, TimestampTz received_at)
{
	Rebuilt		rebuilt;
	bool		found[MAX_REBUILT] = {false};
	JsonbParseState *state = NULL;
	JsonbParseState *rest = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	JsonbValue	type_value;
	JsonbValue	body_value;
	JsonbValue	context_value;
	JsonbValue *context_column = NULL;
	bool		any_context = false;
	bool		any_rest = false;
	bool		any_absent = false;
	int			i;

	/* the name of the type, as the column will have it */
	if (CdpJsonKey(payload, "type", &type_value) == NULL)
		(void) CdpJsonKey(payload, "action", &type_value);

	push_context(&state, context, &any_context);
	if (any_context)
	{
		/* the same container as the payload's, unless it has our key */
		if (CdpJsonKey(context, CDP_PAYLOAD_KEY, &value) == NULL)
			set_container(&context_value, context, 0);
		else
		{
			JsonbParseState *copy = NULL;
			bool		any;
			Jsonb	   *stripped;

			push_context(&copy, context, &any);
			stripped = JsonbValueToJsonb(pushJsonbValue(&copy, WJB_END_OBJECT, NULL));
			set_container(&context_value, &stripped->root, VARSIZE(stripped) - VARHDRSZ);
		}
		context_column = &context_value;
	}
	if (body != NULL)
		set_container(&body_value, body, 0);

	rebuild(&rebuilt, type, type_value.val.string.val, type_value.val.string.len,
			message_id, message_id_len, event, event_len, identifiers,
			body ? &body_value : NULL, context_column, occurred_at, received_at);

	pushJsonbValue(&rest, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(payload);
	token = JsonbIteratorNext(&it, &value, true);
	Assert(token == WJB_BEGIN_OBJECT);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		JsonbValue	key = value;

		(void) JsonbIteratorNext(&it, &value, true);
		for (i = 0; i < rebuilt.count; i++)
			if (key_is(&key, rebuilt.keys[i]))
				break;
		if (i < rebuilt.count)
		{
			found[i] = true;
			if (same_value(&rebuilt.values[i], &value))
				continue;
		}
		if (is_absent_key(&key, 0))
			set_string(&key, psprintf("$%.*s", key.val.string.len, key.val.string.val),
					   key.val.string.len + 1);
		any_rest = true;
		pushJsonbValue(&rest, WJB_KEY, &key);
		pushJsonbValue(&rest, WJB_VALUE, &value);
	}
	for (i = 0; i < rebuilt.count; i++)
	{
		if (found[i])
			continue;
		if (!any_absent)
		{
			any_absent = true;
			push_key(&rest, CDP_PAYLOAD_ABSENT, strlen(CDP_PAYLOAD_ABSENT));
			pushJsonbValue(&rest, WJB_BEGIN_ARRAY, NULL);
		}
		set_string(&value, rebuilt.keys[i], strlen(rebuilt.keys[i]));
		pushJsonbValue(&rest, WJB_ELEM, &value);
	}
	if (any_absent)
		pushJsonbValue(&rest, WJB_END_ARRAY, NULL);

	if (any_rest || any_absent)
	{
		Jsonb	   *kept = JsonbValueToJsonb(pushJsonbValue(&rest, WJB_END_OBJECT, NULL));

		push_key(&state, CDP_PAYLOAD_KEY, strlen(CDP_PAYLOAD_KEY));
		set_container(&value, &kept->root, VARSIZE(kept) - VARHDRSZ);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	else if (!any_context)
		return NULL;
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Is the key in the array kept under $absent?
 */
static bool
is_absent(JsonbContainer *kept, const char *key)
{
	JsonbValue	absent;
	JsonbValue	needle;

	if (CdpJsonKey(kept, CDP_PAYLOAD_ABSENT, &absent) == NULL ||
		absent.type != jbvBinary || !JsonContainerIsArray(absent.val.binary.data))
		return false;
	set_string(&needle, key, strlen(key));
	return findJsonbValueFromContainer(absent.val.binary.data, JB_FARRAY, &needle) != NULL;
}

/*
 * cdp.payload(e cdp.events) returns jsonb: the payload that the entry came
 * from; for an entry that came otherwise, the payload that says the same.
 */
Datum
cdp_payload(PG_FUNCTION_ARGS)
{
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	TupleDesc	tupdesc;
	HeapTupleData tuple;
	Datum		values[CDP_EVENTS_NATTS];
	bool		nulls[CDP_EVENTS_NATTS];
	CdpIdentifierList identifiers;
	CdpEntryType type = CDP_ENTRY_UNKNOWN;
	text	   *type_name = NULL;
	text	   *message_id = NULL;
	text	   *event = NULL;
	JsonbContainer *context = NULL;
	JsonbContainer *kept = NULL;
	JsonbValue	body_value;
	JsonbValue	context_value;
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbValue	value;
	Rebuilt		rebuilt;
	bool		any_context = false;
	int			i;

	tupdesc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
									 HeapTupleHeaderGetTypMod(header));
	if (tupdesc->natts < CDP_EVENTS_NATTS)
		elog(ERROR, "unexpected row type");
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	if (tupdesc->natts == CDP_EVENTS_NATTS)
		heap_deform_tuple(&tuple, tupdesc, values, nulls);
	else
		for (i = 0; i < CDP_EVENTS_NATTS; i++)
			values[i] = heap_getattr(&tuple, i + 1, tupdesc, &nulls[i]);
	ReleaseTupleDesc(tupdesc);

	CdpIdentifierListInit(&identifiers);
	if (!nulls[CDP_EVENTS_IDENTIFIERS])
	{
		ArrayType  *array = DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS]);
		Datum	   *elements;
		bool	   *element_nulls;
		int			n;

		deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
						  &elements, &element_nulls, &n);
		for (i = 0; i < n; i++)
		{
			CdpIdentifier *identifier;
			int			kindlen;

			if (element_nulls[i])
				continue;
			identifier = DatumGetIdentifierPP(elements[i]);
			kindlen = CdpIdentifierKindLength(identifier);
			CdpIdentifierListAdd(&identifiers, VARDATA_ANY(identifier), kindlen,
								 VARDATA_ANY(identifier) + kindlen + 1,
								 VARSIZE_ANY_EXHDR(identifier) - kindlen - 1);
		}
	}
	if (!nulls[CDP_EVENTS_TYPE])
	{
		type_name = DatumGetTextPP(values[CDP_EVENTS_TYPE]);
		type = CdpEntryTypeFromText(type_name);
	}
	if (!nulls[CDP_EVENTS_MESSAGE_ID])
		message_id = DatumGetTextPP(values[CDP_EVENTS_MESSAGE_ID]);
	if (!nulls[CDP_EVENTS_EVENT])
		event = DatumGetTextPP(values[CDP_EVENTS_EVENT]);
	if (!nulls[CDP_EVENTS_PROPERTIES])
	{
		Jsonb	   *body = DatumGetJsonbP(values[CDP_EVENTS_PROPERTIES]);

		/* an entry can be made up: its row is for those who may read the log */
		if (!nulls[CDP_EVENTS_SOURCE] && !nulls[CDP_EVENTS_ID] &&
			pg_class_aclcheck(CdpRelationOid("events"), GetUserId(), ACL_SELECT) == ACLCHECK_OK)
			body = CdpReferenceRead(body, DatumGetTextPP(values[CDP_EVENTS_SOURCE]),
									DatumGetInt64(values[CDP_EVENTS_ID]), fcinfo->flinfo);
		if (!JB_ROOT_IS_SCALAR(body))
			set_container(&body_value, &body->root, VARSIZE(body) - VARHDRSZ);
		else
			(void) JsonbExtractScalar(&body->root, &body_value);
	}
	if (!nulls[CDP_EVENTS_CONTEXT])
	{
		Jsonb	   *column = DatumGetJsonbP(values[CDP_EVENTS_CONTEXT]);

		if (JB_ROOT_IS_OBJECT(column))
		{
			JsonbParseState *copy = NULL;

			context = &column->root;
			kept = CdpJsonObject(context, CDP_PAYLOAD_KEY);
			push_context(&copy, context, &any_context);
			column = JsonbValueToJsonb(pushJsonbValue(&copy, WJB_END_OBJECT, NULL));
			set_container(&context_value, &column->root, VARSIZE(column) - VARHDRSZ);
		}
	}

	rebuild(&rebuilt, type,
			type_name ? VARDATA_ANY(type_name) : NULL,
			type_name ? VARSIZE_ANY_EXHDR(type_name) : 0,
			message_id ? VARDATA_ANY(message_id) : NULL,
			message_id ? VARSIZE_ANY_EXHDR(message_id) : 0,
			event ? VARDATA_ANY(event) : NULL,
			event ? VARSIZE_ANY_EXHDR(event) : 0,
			&identifiers,
			nulls[CDP_EVENTS_PROPERTIES] ? NULL : &body_value,
			any_context ? &context_value : NULL,
			nulls[CDP_EVENTS_OCCURRED_AT] ? DatumGetTimestampTz(values[CDP_EVENTS_RECEIVED_AT]) :
			DatumGetTimestampTz(values[CDP_EVENTS_OCCURRED_AT]),
			DatumGetTimestampTz(values[CDP_EVENTS_RECEIVED_AT]));

	/* of equal keys of an object the last one counts */
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < rebuilt.count; i++)
	{
		if (kept != NULL && is_absent(kept, rebuilt.keys[i]))
			continue;
		push_key(&state, rebuilt.keys[i], strlen(rebuilt.keys[i]));
		pushJsonbValue(&state, WJB_VALUE, &rebuilt.values[i]);
	}
	if (kept != NULL)
	{
		it = JsonbIteratorInit(kept);
		(void) JsonbIteratorNext(&it, &value, true);
		while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
		{
			JsonbValue	key = value;

			(void) JsonbIteratorNext(&it, &value, true);
			if (key_is(&key, CDP_PAYLOAD_ABSENT))
				continue;
			if (is_absent_key(&key, 1))
				set_string(&key, key.val.string.val + 1, key.val.string.len - 1);
			pushJsonbValue(&state, WJB_KEY, &key);
			pushJsonbValue(&state, WJB_VALUE, &value);
		}
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
