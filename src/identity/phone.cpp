/*-------------------------------------------------------------------------
 *
 * phone.cpp
 *	  Phone numbers in E.164, by libphonenumber.
 *
 *	  Includes no header of PostgreSQL, so that nothing here can longjmp over
 *	  a destructor; every exception ends here.
 *
 *	  Whether a number is valid is not asked: that answer changes with every
 *	  release of the numbering plans, and what was one person's number must
 *	  stay it.  For the same reason, where plans have changed how a number is
 *	  read, older releases of the library are made to read it as newer ones
 *	  do.
 *
 * IDENTIFICATION
 *	  src/identity/phone.cpp
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include <phonenumbers/phonenumber.pb.h>
#include <phonenumbers/phonenumberutil.h>

#include "identity/phone.h"

using i18n::phonenumbers::PhoneNumber;
using i18n::phonenumbers::PhoneNumberUtil;

static bool
copy_out(const std::string &from, char *out, size_t outsize)
{
	if (from.size() >= outsize)
		return false;
	memcpy(out, from.c_str(), from.size() + 1);
	return true;
}

static bool
ends_with(const std::string &s, const std::string &end)
{
	return s.size() >= end.size() &&
		s.compare(s.size() - end.size(), end.size(), end) == 0;
}

/*
 * Uzbekistan dials abroad with 00, and no more with 8~10, which releases
 * before 8.13 expect.
 */
static std::string
current_international_prefix(const std::string &value, const std::string &region)
{
	size_t		start = value.find_first_not_of(" \t(");

	if (region == "UZ" && start != std::string::npos &&
		value.compare(start, 2, "00") == 0)
		return "+" + value.substr(start + 2);
	return value;
}

/*
 * Mexico has had no national prefixes since 2019; releases before 8.13 drop
 * them.  What was dropped is what stands in the input between the country's
 * code and the number.
 */
static std::string
dropped_prefix(const PhoneNumberUtil &util, const PhoneNumber &number,
			   const std::string &value)
{
	static const char *const prefixes[] = {"044", "045", "01", "02", "1"};
	static const char *const heads[] = {"", "52", "0052", "0952"};
	std::string digits(value);
	std::string nsn;

	if (number.country_code() != 52)
		return "";
	util.NormalizeDigitsOnly(&digits);
	util.GetNationalSignificantNumber(number, &nsn);
	if (number.has_extension() && ends_with(digits, number.extension()))
		digits.erase(digits.size() - number.extension().size());
	if (!ends_with(digits, nsn))
		return "";
	digits.erase(digits.size() - nsn.size());
	for (const char *prefix : prefixes)
		for (const char *head : heads)
			if (digits == std::string(head) + prefix)
				return prefix;
	return "";
}

int
CdpPhoneE164(const char *value, size_t len, const char *region,
			 char *out, size_t outsize)
{
	try
	{
		const PhoneNumberUtil &util = *PhoneNumberUtil::GetInstance();
		const std::string input =
			current_international_prefix(std::string(value, len), region);
		PhoneNumber number;
		std::string result;
		std::string prefix;

		if (util.Parse(input, region, &number) !=
			PhoneNumberUtil::NO_PARSING_ERROR)
			return 0;
		util.Format(number, PhoneNumberUtil::E164, &result);
		prefix = dropped_prefix(util, number, input);
		if (!prefix.empty())
			result.insert(strlen("+52"), prefix);
		return copy_out(result, out, outsize);
	}
	catch (...)
	{
		return 0;
	}
}

int
CdpPhoneRegionKnown(const char *region)
{
	try
	{
		std::set<std::string> regions;

		PhoneNumberUtil::GetInstance()->GetSupportedRegions(&regions);
		return regions.count(region) > 0;
	}
	catch (...)
	{
		return 0;
	}
}

/* 64-bit FNV-1a */
static void
add_to_fingerprint(uint64_t *fingerprint, const std::string &s)
{
	for (unsigned char c : s)
		*fingerprint = (*fingerprint ^ c) * UINT64_C(1099511628211);
}

int
CdpPhoneVersion(char *out, size_t outsize)
{
	try
	{
		const PhoneNumberUtil &util = *PhoneNumberUtil::GetInstance();
		std::set<std::string> regions;
		uint64_t	fingerprint = UINT64_C(14695981039346656037);
		char		hex[17];
		std::string version = "unknown";
		Dl_info		info;

		/* the library has no function that tells; its file's name does */
		if (dladdr(reinterpret_cast<void *>(&PhoneNumberUtil::GetInstance),
				   &info) != 0 && info.dli_fname != NULL)
		{
			char	   *path = realpath(info.dli_fname, NULL);

			if (path != NULL)
			{
				const char *slash = strrchr(path, '/');

				version = slash != NULL ? slash + 1 : path;
				free(path);
			}
		}

		util.GetSupportedRegions(&regions);
		for (const std::string &region : regions)
		{
			add_to_fingerprint(&fingerprint, region);
			for (int type = PhoneNumberUtil::FIXED_LINE;
				 type <= PhoneNumberUtil::VOICEMAIL; type++)
			{
				PhoneNumber number;
				std::string e164;

				if (util.GetExampleNumberForType(region,
												 static_cast<PhoneNumberUtil::PhoneNumberType>(type),
												 &number))
					util.Format(number, PhoneNumberUtil::E164, &e164);
				add_to_fingerprint(&fingerprint, e164);
			}
		}
		snprintf(hex, sizeof(hex), "%016llx",
				 static_cast<unsigned long long>(fingerprint));
		return copy_out(version + " " + hex, out, outsize);
	}
	catch (...)
	{
		return 0;
	}
}
