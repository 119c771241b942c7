/*-------------------------------------------------------------------------
 *
 * consent.c
 *	  Purposes, consent calls, and who consents to what.
 *
 *	  A purpose is a hidden trait (traits/consent.c): what entries say about it
 *	  is folded, merged, split and back-filled like all else that is computed
 *	  from the log.
 *
 * IDENTIFICATION
 *	  src/trust/consent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "collect/extract.h"
#include "compat.h"
#include "segments/segments.h"
#include "sensitive.h"
#include "traits/consent.h"

PG_FUNCTION_INFO_V1(cdp_consent);
PG_FUNCTION_INFO_V1(cdp_define_purpose);
PG_FUNCTION_INFO_V1(cdp_drop_purpose);
PG_FUNCTION_INFO_V1(cdp_consents);
PG_FUNCTION_INFO_V1(cdp_consented);
PG_FUNCTION_INFO_V1(cdp_consented_profile);

/* ---- calls ---- */

static void
push_text(JsonbParseState **state, const char *key, char *string, int len)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
	v.val.string.val = string;
	v.val.string.len = len;
	pushJsonbValue(state, WJB_VALUE, &v);
}

static int32
need_purpose(const char *name)
{
	int32		id = CdpPurposeId(name);

	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("purpose \"%s\" does not exist", name),
				 errhint("Purposes are listed in cdp.purposes; cdp.create_purpose() makes one.")));
	return id;
}

/*
 * cdp.consent(user_id, purpose, state, expires, anonymous_id, identifiers,
 * context, occurred_at, message_id, source) returns text
 */
Datum
cdp_consent(PG_FUNCTION_ARGS)
{
	JsonbParseState *state = NULL;
	JsonbValue	word;
	char	   *purpose;
	text	   *given;
	Jsonb	   *body;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consent without %s", PG_ARGISNULL(1) ? "purpose" : "state")));
	purpose = text_to_cstring(PG_GETARG_TEXT_PP(1));
	given = PG_GETARG_TEXT_PP(2);
	(void) need_purpose(purpose);
	word.type = jbvString;
	word.val.string.val = VARDATA_ANY(given);
	word.val.string.len = VARSIZE_ANY_EXHDR(given);
	if (CdpConsentWordFromText(&word) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized state of consent \"%s\"", text_to_cstring(given)),
				 errhint("It is granted, denied or unset.")));

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "purpose", purpose, strlen(purpose));
	push_text(&state, "state", word.val.string.val, word.val.string.len);
	if (!PG_ARGISNULL(3))
	{
		TimestampTz expires = PG_GETARG_TIMESTAMPTZ(3);
		char		iso[MAXDATELEN + 1];
		int			utc = 0;
		TimestampTz read;

		if (!TIMESTAMP_NOT_FINITE(expires))
			JsonEncodeDateTime(iso, TimestampTzGetDatum(expires), TIMESTAMPTZOID, &utc);
		if (TIMESTAMP_NOT_FINITE(expires) || !CdpParseIsoTime(iso, strlen(iso), &read) ||
			read != expires)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("expires must be a finite time of our era")));
		push_text(&state, "expires", iso, strlen(iso));
	}
	body = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return CdpLogSaid(fcinfo, "consent", CDP_ENTRY_CONSENT, body,
					  PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
					  PG_ARGISNULL(4) ? NULL : PG_GETARG_TEXT_PP(4), 5);
}

/* ---- purposes ---- */

/*
 * cdp.define_purpose(name, latest, options, description)
 */
Datum
cdp_define_purpose(PG_FUNCTION_ARGS)
{
	CdpApplierLock();
	CdpPurposeDefine(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_BOOL(1),
					 PG_GETARG_JSONB_P(2),
					 PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)));
	PG_RETURN_VOID();
}

/*
 * cdp.drop_purpose(name)
 */
Datum
cdp_drop_purpose(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext context = CurrentMemoryContext;
	CdpUserContext saved;
	Oid			type = INT4OID;
	Datum		id;
	char	   *list;

	CdpApplierLock();
	id = Int32GetDatum(need_purpose(name));
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT string_agg(s.name, ', ' ORDER BY s.name)"
							  " FROM cdp.definition_depends d"
							  " JOIN cdp.segment_definitions s ON s.id = d.id"
							  " WHERE d.trait_id = $1 AND d.kind IN ('segment', 'segment version')"
							  " AND NOT s.hidden",
							  1, &type, &id, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dependencies");
	list = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (list)
		list = MemoryContextStrdup(context, list);
	SPI_finish();
	CdpRestoreUser(&saved);
	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop purpose \"%s\" because segments depend on it", name),
				 errdetail("They are %s.", list),
				 errhint("Alter or drop these first.")));
	CdpPurposeDrop(DatumGetInt32(id));
	PG_RETURN_VOID();
}

/* ---- reads ---- */

typedef struct Read
{
	TimestampTz now;
	CdpTraitSet *traits;
	CdpProfileNodes nodes;
	CdpProfileValues values;
} Read;

static bool
read_profile(Read *read, int64 generation, TimestampTz applied, int64 profile)
{
	read->now = CdpReadInstant(applied);
	read->traits = CdpTraitSetGet(generation);
	if (profile == 0 || !CdpProfileRead(profile, read->traits, &read->nodes))
		return false;
	CdpProfileEvaluate(read->traits, read->nodes.accs, read->nodes.nnodes, read->now,
					   &read->values);
	return true;
}

/* The identifier that a word is about; NULL: it belongs to another profile now. */
static CdpIdentifier *
identifier_of(const Read *read, const CdpConsentWord *word)
{
	for (int i = 0; i < read->nodes.nnodes; i++)
	{
		char		key[CDP_CONSENT_KEY];

		CdpConsentKey(read->nodes.nodes[i].identifier, key);
		if (memcmp(key, word->key, CDP_CONSENT_KEY) == 0)
			return read->nodes.nodes[i].identifier;
	}
	return NULL;
}

/*
 * cdp.consents(identifier): for each purpose a row for what the profile comes
 * to and one for each identifier with a word about it.
 */
Datum
cdp_consents(PG_FUNCTION_ARGS)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Read		read;

	InitMaterializedSRF(fcinfo, 0);
	if (!read_profile(&read, generation, applied,
					  CdpProfileOfIdentifier(generation, PG_GETARG_IDENTIFIER_PP(0))))
		return (Datum) 0;
	for (int i = 0; i < read.traits->ntraits; i++)
	{
		CdpTrait   *trait = read.traits->traits[i];
		CdpConsentWord *words;
		Datum		row[6] = {0};
		bool		nulls[6] = {false, false, true, true, true, true};
		int			n;

		if (!CDP_AGG_OF_CONSENT(trait->aggregate) || trait->version)
			continue;
		row[0] = CStringGetTextDatum(CdpPurposeName(trait));
		row[1] = read.values.isnull[i] ? CStringGetTextDatum("unset") : read.values.values[i];
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, nulls);
		n = CdpConsentWords(read.traits, i, read.nodes.accs, read.nodes.nnodes, &words);
		for (int j = 0; j < n; j++)
		{
			CdpIdentifier *identifier = identifier_of(&read, &words[j]);

			row[1] = CStringGetTextDatum(CdpConsentWordName(words[j].expires <= read.now ?
															CDP_CONSENT_UNSET : words[j].letter));
			row[2] = PointerGetDatum(identifier ? CdpShownIdentifier(identifier) : NULL);
			row[3] = PointerGetDatum(cstring_to_text_with_len(words[j].source, words[j].sourcelen));
			row[4] = TimestampTzGetDatum(words[j].at);
			row[5] = TimestampTzGetDatum(words[j].expires);
			nulls[2] = identifier == NULL;
			nulls[3] = nulls[4] = false;
			nulls[5] = TIMESTAMP_IS_NOEND(words[j].expires);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, nulls);
		}
	}
	return (Datum) 0;
}

static bool
consented(int64 generation, TimestampTz applied, int64 profile, const char *purpose)
{
	CdpTrait   *trait;
	int32		id = need_purpose(purpose);
	Read		read;

	if (!read_profile(&read, generation, applied, profile))
		return false;
	trait = CdpTraitById(read.traits, id);
	return trait != NULL && CdpConsentGranted(&read.values, trait->index);
}

/*
 * cdp.consented(identifier, purpose)
 */
Datum
cdp_consented(PG_FUNCTION_ARGS)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);

	PG_RETURN_BOOL(consented(generation, applied,
							 CdpProfileOfIdentifier(generation, PG_GETARG_IDENTIFIER_PP(0)),
							 text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/*
 * cdp.consented(profile_id, purpose): ids of former profiles are good, too.
 */
Datum
cdp_consented_profile(PG_FUNCTION_ARGS)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);

	PG_RETURN_BOOL(consented(generation, applied, CdpProfileOfNode(PG_GETARG_INT64(0)),
							 text_to_cstring(PG_GETARG_TEXT_PP(1))));
}
