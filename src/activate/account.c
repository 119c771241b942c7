/*-------------------------------------------------------------------------
 *
 * account.c
 *	  Reading one account: cdp.account; and the values of its traits.
 *
 *	  As with profiles, values and memberships are computed at the read's
 *	  instant, from what has been applied.
 *
 * IDENTIFICATION
 *	  src/activate/account.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "activate/activate.h"
#include "identity/account.h"
#include "segments/segments.h"

/* A read: definitions, the instant that it is about, and the account. */
typedef struct AccountRead
{
	CdpTraitSet *traits;
	CdpSegmentSet *segments;
	TimestampTz now;
	CdpAccountRow *row;			/* NULL: there is none */
	int			nmembers;
	MemoryContext context;		/* of the caller */
	CdpUserContext saved;
} AccountRead;

/*
 * Begin to read; SPI is connected afterwards, until end_read.
 */
static void
begin_read(AccountRead *read, const CdpIdentifier *identifier, int64 id, TimestampTz at)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);
	MemoryContext old;
	int			n = 0;

	read->row = NULL;
	read->context = CurrentMemoryContext;
	read->now = TIMESTAMP_IS_NOBEGIN(at) ? CdpReadInstant(applied) : at;
	read->traits = CdpAccountTraitSetGet(generation);
	read->segments = CdpSegmentSetGet(generation, read->traits);
	CdpBecomeOwner(&read->saved);
	SPI_connect();
	if (identifier != NULL)
		id = CdpAccountOfIdentifier(generation, identifier);
	old = MemoryContextSwitchTo(read->context);
	if (id != 0)
	{
		CdpAccountRow *rows = CdpAccountsRead(read->traits, &id, 1, read->now,
											  CdpMembersNowRead, &n);

		read->row = n == 0 ? NULL : rows;
	}
	MemoryContextSwitchTo(old);
}

static void
end_read(AccountRead *read)
{
	SPI_finish();
	CdpRestoreUser(&read->saved);
	MemoryContextSwitchTo(read->context);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = pnstrdup(string, len);
	value.val.string.len = len;
	(void) pushJsonbValue(state, token, &value);
}

static void
push_number(JsonbParseState **state, int64 number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_time(JsonbParseState **state, TimestampTz at)
{
	char		buffer[MAXDATELEN + 1];

	JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL);
	push_text(state, WJB_VALUE, buffer, strlen(buffer));
}

static void
push_identifier(JsonbParseState **state, const CdpIdentifier *identifier)
{
	if (identifier != NULL)
		push_text(state, WJB_VALUE, VARDATA_ANY(identifier), VARSIZE_ANY_EXHDR(identifier));
	else
	{
		JsonbValue	value = {.type = jbvNull};

		(void) pushJsonbValue(state, WJB_VALUE, &value);
	}
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/*
 * The segments of accounts that it is in now: those in "only", or all.
 */
static CdpProfileEval
evaluate_segments(AccountRead *read, const Bitmapset *only)
{
	CdpProfileEval eval = {0};

	eval.profile_id = read->row->id;
	eval.nbefore = read->row->nsegments;
	eval.before = read->row->segments;
	eval.values = read->row->values;
	CdpSegmentsEvaluateSome(read->segments, &eval, 1, read->now, only, false);
	return eval;
}

static void
push_segments(JsonbParseState **state, AccountRead *read)
{
	CdpProfileEval eval = evaluate_segments(read, NULL);
	const char **names = palloc(Max(eval.nafter, 1) * sizeof(char *));

	for (int i = 0; i < eval.nafter; i++)
		names[i] = CdpSegmentName(read->segments, eval.after[i]);
	qsort(names, eval.nafter, sizeof(char *), compare_names);
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < eval.nafter; i++)
		push_text(state, WJB_ELEM, names[i], strlen(names[i]));
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static void
push_jsonb(JsonbParseState **state, Jsonb *jsonb)
{
	JsonbValue	value;

	value.type = jbvBinary;
	value.val.binary.data = &jsonb->root;
	value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

static Jsonb *
account_json(AccountRead *read, int nmembers)
{
	CdpAccountRow *row = read->row;
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, "account_id");
	if (row->id > 0)
		push_number(&state, row->id);
	else
		push_identifier(&state, NULL);
	push_key(&state, "identifier");
	push_identifier(&state, row->identifier);
	push_key(&state, "traits");
	push_jsonb(&state, CdpProfileValuesJson(read->traits, &row->acc, 1, &row->values));
	push_key(&state, "segments");
	push_segments(&state, read);
	push_key(&state, "members");
	push_number(&state, nmembers);
	push_key(&state, "parent");
	push_identifier(&state, row->parent);
	push_key(&state, "first_seen");
	push_time(&state, row->first_seen);
	if (!TIMESTAMP_IS_NOBEGIN(row->last_seen))
	{
		push_key(&state, "last_seen");
		push_time(&state, row->last_seen);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
CdpAccountJson(int64 generation, CdpAccountRow *row, TimestampTz now, int nmembers)
{
	AccountRead read = {0};

	read.traits = CdpAccountTraitSetGet(generation);
	read.segments = CdpSegmentSetGet(generation, read.traits);
	read.now = now;
	read.row = row;
	return account_json(&read, nmembers);
}

PG_FUNCTION_INFO_V1(cdp_account);

/*
 * cdp.account(identifier) returns jsonb
 */
Datum
cdp_account(PG_FUNCTION_ARGS)
{
	AccountRead read;
	int			nmembers;

	begin_read(&read, PG_GETARG_IDENTIFIER_PP(0), 0, DT_NOBEGIN);
	if (read.row != NULL)
		(void) CdpMembersOfAccounts(&read.row->id, 1, DT_NOEND, &nmembers);
	end_read(&read);
	if (read.row == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(account_json(&read, nmembers));
}

/*
 * {name: value, …} of all traits, those without a value left out.
 */
static Jsonb *
values_json(AccountRead *read)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < read->traits->ntraits; i++)
	{
		JsonbValue	value;

		if (read->row->values.isnull[i] ||
			CdpTraitHidden(read->traits, read->traits->traits[i]))
			continue;
		push_key(&state, read->traits->traits[i]->name);
		CdpValueToJsonbValue(read->row->values.values[i], false,
							 read->traits->traits[i]->type, &value);
		(void) pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

PG_FUNCTION_INFO_V1(cdp_account_trait_values);

/*
 * cdp.account_trait_values(account_id, at) returns jsonb: values of the defined
 * traits; at: NULL for the read's instant.
 */
Datum
cdp_account_trait_values(PG_FUNCTION_ARGS)
{
	AccountRead read;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	begin_read(&read, NULL, PG_GETARG_INT64(0),
			   PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1));
	end_read(&read);
	if (read.row == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(values_json(&read));
}

PG_FUNCTION_INFO_V1(cdp_account_traits_json);

/*
 * cdp.account_traits_json(account_id, at) returns jsonb: as cdp.account shows
 * them.
 */
Datum
cdp_account_traits_json(PG_FUNCTION_ARGS)
{
	AccountRead read;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	begin_read(&read, NULL, PG_GETARG_INT64(0),
			   PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1));
	end_read(&read);
	if (read.row == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(CdpProfileValuesJson(read.traits, &read.row->acc, 1, &read.row->values));
}

/*
 * Is the account that the identifier names in a segment of accounts of that
 * name?  False as well when there is no such account; *known: is there such a
 * segment?
 */
bool
CdpAccountInSegment(const CdpIdentifier *identifier, const char *segment, bool *known)
{
	AccountRead read;
	CdpProfileEval eval;
	int			column;

	begin_read(&read, identifier, 0, DT_NOBEGIN);
	end_read(&read);
	column = CdpSegmentColumnByName(read.segments, segment);
	*known = column >= 0;
	if (CdpSegmentWaits(read.segments, column))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("segment \"%s\" is being built", segment),
				 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
	if (column < 0 || read.row == NULL)
		return false;
	eval = evaluate_segments(&read, bms_make_singleton(column));
	for (int i = 0; i < eval.nafter; i++)
		if (CdpSegmentColumn(read.segments, eval.after[i]) == column)
			return true;
	return false;
}
